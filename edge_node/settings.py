"""Settings of a node, and of the plan of its drafts."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.limits import Limits
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.controller.policies import DEFAULT, POLICIES
from flexspec_mq.controller.rl import RlPolicy, network_of
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.energy.presets import DEVICES, RADIOS
from flexspec_mq.errors import UsageError
from flexspec_mq.models.pairs.table import PairSource, pair_setting
from flexspec_mq.settings import Setting
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS, MAX_IN_FLIGHT

_VERSION = partial(topics.checked, "version")


def _policy(name: str) -> None:
    if name not in POLICIES:
        raise UsageError(f"policy {name!r} is none of {', '.join(POLICIES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings(DraftSettings):
    """Settings of a device; `Setting.help` has the words for most.

    Attributes:
        session_expiry: seconds that the broker keeps verdicts for us while we are away.
        reuse: name the beginning of a prompt that a worker has read, instead of sending it.
        ephemeral: the name was drawn for this run, so nothing retained is left under it.
    """

    pair: Annotated[str | None, pair_setting("draft")] = None
    pair_source: PairSource = None
    edge: Annotated[
        str,
        Setting(
            help="name on topics",
            check=partial(topics.checked, "edge"),
            default="the user name, or 6 random characters",
        ),
    ] = field(default_factory=lambda: entropy.name(3))
    version: Annotated[
        str, Setting(help="target version to ask for; with a family its catalogue says which", check=_VERSION)
    ] = "base"
    local: Annotated[
        str | None,
        Setting(
            help="model that answers by itself here, whatever the target's vocabulary: provisional text, and requests "
            "that must not leave the device; a chat model's folder, as of `flexspec draft export --onnx`, or GGUF "
            "file, or 'draft' for a draft that is one",
            default="none",
            path_unless=("draft",),
        ),
    ] = None
    fetch_draft: Annotated[
        bool,
        Setting(
            help="where no draft is installed, fetch the one that a worker gives, once, and draft with it from the "
            "next start on; the log tells its size first"
        ),
    ] = False
    keys: Annotated[
        Path | None,
        Setting(
            help="file of `flexspec-broker add-device` with the device's keys: with it only verdicts of workers of "
            "its deployment are taken",
            default="none: whoever may publish is believed",
        ),
    ] = None
    wait: Annotated[
        float,
        Setting(
            help="patience of requests that name none: seconds without a token after which one fails while the broker "
            "is away, no worker serves the version or all have too much to do",
            unit="seconds",
            least=0,
            default=f"{waiting.PATIENCE:g} once a text could begin; until then {waiting.UNLINKED:g} for the broker "
            "and none for a worker",
        ),
    ] = 0.0
    provisional_tokens: Annotated[
        int,
        Setting(
            help="tokens that local or the draft may write alone behind a text while nobody answers; 0 forbids it. "
            "They write none below battery_floor, nor while an energy budget is exceeded",
            least=0,
            most=MAX_DRAFT_TOKENS * MAX_IN_FLIGHT,
        ),
    ] = 256
    remember: Annotated[
        bool,
        Setting(
            help="keep the last 40 answers of a version on disk, and draft what the next ones repeat of them; "
            "whoever reads the file reads them (docs/security.md)"
        ),
    ] = True
    energy: Annotated[
        str,
        Setting(
            help="what a text takes out of the device: modelled by a preset (docs/energy.md), 'measured' by the "
            "battery, or 'none' to leave it",
            choices=("none", "measured", *DEVICES),
        ),
    ] = "none"
    energy_radio: Annotated[
        str | None,
        Setting(
            help="with a preset of energy: what carries the messages",
            choices=RADIOS,
            default="of the preset",
        ),
    ] = None
    session_expiry: int = waiting.SESSION_EXPIRY
    reuse: bool = True
    ephemeral: bool = False

    @property
    def local_is_draft(self) -> bool:
        """Whether the model that answers by itself is the draft."""
        return self.local in ("draft", self.draft)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The plan, see `Plan`, and what adapts it. All its defaults stand here alone."""

    draft_length: Annotated[
        int,
        Setting(
            help=f"K, tokens per batch, 0-{MAX_DRAFT_TOKENS}; policies that choose K themselves begin with it, and "
            "draft nothing on the device where it is 0",
            least=0,
            most=MAX_DRAFT_TOKENS,
        ),
    ] = 4
    in_flight: Annotated[
        int, Setting(help=f"W, unanswered batches, 1-{MAX_IN_FLIGHT}", least=1, most=MAX_IN_FLIGHT)
    ] = 1
    qos: Annotated[
        int | None,
        Setting(
            help="MQTT quality of service, 0-2",
            least=0,
            most=2,
            default="1 for what opens a text, then what costs least; with policy fixed 1",
        ),
    ] = None
    ahead: Annotated[
        int,
        Setting(
            help=f"tokens that the worker may write beyond what it knows us to have, 0-{MAX_AHEAD}",
            least=0,
            most=MAX_AHEAD,
        ),
    ] = 8

    worker_draft: Annotated[
        int,
        Setting(
            help="tokens that a worker with a draft may draft itself for one forward, out of --ahead, "
            f"0-{MAX_DRAFT_TOKENS}; it drafts as many as are worth their time",
            least=0,
            most=MAX_DRAFT_TOKENS,
        ),
    ] = 8

    stop: Annotated[
        float,
        Setting(
            help="end a batch before the token that is of use with a smaller probability than this; 0 never does",
            least=0,
            most=0.99,
        ),
    ] = 0.0
    policy: Annotated[
        str,
        Setting(
            help="what adapts the plan: closed-form takes who drafts, draft length, window and look-ahead that are "
            "expected to be fastest, from what the node measures; rl is a small network trained in a simulator; "
            "fixed keeps to the plan",
            check=_policy,
        ),
    ] = DEFAULT
    policy_weights: Annotated[
        Path | None,
        Setting(
            help="weights of policy rl, as `flexspec policy train` writes them",
            default="those that ship",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Read the weights, if some are named.

        Raises:
            UsageError: for a policy that has none.
            ModelError: they cannot be read, or are of something else.
        """
        if self.policy_weights is None:
            return
        if self.policy != "rl":
            raise UsageError(
                f"policy {self.policy!r} has no weights", hint="leave policy_weights out, or take rl"
            )
        network_of(self.policy_weights)

    def plan(self) -> Plan:
        """As the protocol takes it."""
        qos = 1 if self.qos is None else self.qos
        return Plan(self.draft_length, self.in_flight, qos, self.ahead, self.stop, self.worker_draft)

    def new_policy(self, limits: Limits | None = None) -> Policy:
        """A policy for a session of its own.

        Args:
            limits: constraints of the default policy's choice; the others keep none.
        """
        base, choose_qos = self.plan(), self.qos is None
        if self.policy == DEFAULT:
            return ClosedFormPolicy(base, choose_qos=choose_qos, limits=limits)
        if self.policy == "rl":
            return RlPolicy(base, choose_qos=choose_qos, network=network_of(self.policy_weights))
        return FixedPolicy(base)
