"""Settings of a cloud worker.

Another part of the worker gets a section of its own here: a frozen dataclass whose fields carry a `Setting`, and a
field of `CloudConfig`. Its flags, variables, keys of the file, help and ``config show`` follow from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.daemon.probes import MetricsOptions
from flexspec_mq.errors import UsageError
from flexspec_mq.heads.place import scheme_of
from flexspec_mq.models.cache import families_folder
from flexspec_mq.models.pairs.table import PairSource, pair_setting
from flexspec_mq.settings import Loaded, Program, Section, Setting, add_flags, load, named_after_user
from flexspec_mq.telemetry import TelemetryOptions
from flexspec_mq.transport.arguments import LinkOptions
from schemas.messages import MOST_KEPT

if TYPE_CHECKING:
    import argparse

SERVERS = ("vllm", "openai")
"""Engines that are somebody else's servers."""
MAX_LEASE = 86_400
"""Seconds; the most that a verdict can say of a lease."""


def _random_name() -> str:
    return entropy.name(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(Section):
    """Settings of one worker process; `Setting.help` has the words.

    A worker's name is short, because it is paid for on every draft.
    """

    target: Annotated[
        str,
        Setting(
            help="model folder, GGUF file or hub name; 'default' is SmolLM2-135M", path_unless=("default",)
        ),
    ] = "default"
    pair: Annotated[str | None, pair_setting("target")] = None
    pair_source: PairSource = None
    version: Annotated[
        str, Setting(help="version name that edges ask for", check=partial(topics.checked, "version"))
    ] = "base"
    worker: Annotated[
        str,
        Setting(
            help="name on topics, 1-64 characters",
            check=partial(topics.checked, "worker"),
            default="the user name, or 4 random ones",
        ),
    ] = field(default_factory=_random_name)
    share_groups: Annotated[
        Path | None,
        Setting(
            help="file of `flexspec-broker add-worker` with the secret names of the groups in which workers share "
            "sessions",
            default="the group that any client may join",
        ),
    ] = None
    keys: Annotated[
        Path | None,
        Setting(
            help="file of `flexspec-broker add-worker` with the worker's keys: with it only messages of devices of "
            "its deployment are taken",
            default="none: whoever may publish is believed",
        ),
    ] = None
    device: Annotated[str, Setting(help="torch device")] = "cpu"
    dtype: Annotated[str, Setting(help="of the weights and the forward: bfloat16, float16 or float32")] = (
        "bfloat16"
    )
    engine: Annotated[
        str,
        Setting(
            help="what runs the target: 'compact' is quick and knows models like Llama, 'transformers' knows all, "
            "'auto' takes the first that can; 'vllm' asks a server of models, and --target then names the "
            "folder with its tokenizer; 'openai' asks any server of chat completions, which verifies no drafts",
            choices=("auto", "compact", "transformers", "vllm", "openai"),
        ),
    ] = "auto"
    engine_url: Annotated[
        str | None,
        Setting(
            help="address of the server of models, such as http://127.0.0.1:8000",
            default="none",
            path_unless=(),
        ),
    ] = None
    engine_model: Annotated[
        str | None,
        Setting(
            help="name of the model there; with openai several, with commas between, of which the first is --version "
            "and each is a version by its own name",
            default="the only one that it serves; with openai all",
            path_unless=(),
        ),
    ] = None
    engine_header: Annotated[
        Path | None,
        Setting(help="file with further headers for the server, one a line: Name: value", default="none"),
    ] = None
    tokens_per_day: Annotated[
        int | None,
        Setting(
            help="tokens, read and written, that a device may have of each version in a day (UTC), with --engine "
            "openai; then its texts end with that reason",
            least=1,
            default="no limit",
        ),
    ] = None
    engine_key_file: Annotated[
        Path | None, Setting(help="file with the server's API key on its first line", default="none")
    ] = None
    weights: Annotated[
        str,
        Setting(
            help="of the compact engine on a CPU: 'native' is as the dtype says, 'int8' has 8-bit integers, which take "
            "half of the memory and the time for large models; it is another target with texts of its own, so it needs "
            "a --version of its own; 'auto' is int8 for a GGUF file in few bits, native for others",
            choices=("auto", "native", "int8"),
        ),
    ] = "auto"
    threads: Annotated[int, Setting(help="torch threads", least=1)] = 1
    draft: Annotated[
        str,
        Setting(
            help="with what the worker drafts for sessions that ask for it (--worker-draft of their edge): a draft "
            "checkpoint folder, 'default', 'lookup' (in prompt and text, without a model), 'none', or 'auto', which "
            "is the default draft for the default target and lookup for others",
            path_unless=("default", "lookup", "none", "auto"),
        ),
    ] = "auto"
    give_draft: Annotated[
        bool,
        Setting(
            help="give the draft to devices that fetch one (--fetch-draft), behind all texts, to each at most "
            "four times a day; the start says how large it is"
        ),
    ] = False
    draft_rows: Annotated[
        str,
        Setting(
            help="which drafted tokens ride along in a forward: those that are 'worth' the time of all who share it, "
            "or 'all', which is for measurements",
            choices=("worth", "all"),
        ),
    ] = "worth"
    prove: Annotated[
        bool,
        Setting(
            help="prove batch-invariance anew at this start, though the proof is remembered, and go on to serve"
        ),
    ] = False
    capacity: Annotated[int, Setting(help="live sessions", least=1)] = 64
    lease: Annotated[
        int, Setting(help="seconds of silence that end a session", unit="seconds", least=1, most=MAX_LEASE)
    ] = waiting.LEASE
    prefill: Annotated[int, Setting(help="prompt tokens that one forward may read", least=2)] = 128
    device_prefill: Annotated[
        int,
        Setting(
            help="prompt tokens that one device may have read at full speed beyond the mean of the others that have "
            "work; what comes on top of that is read in 7 % of the time",
            least=0,
        ),
    ] = 256
    batch: Annotated[int, Setting(help="sessions in one forward", least=1)] = 64
    kv_mb: Annotated[
        int | None,
        Setting(
            help="memory for the KV cache",
            unit="MB",
            least=1,
            default="a quarter of what is free at start",
        ),
    ] = None
    drain: Annotated[
        float, Setting(help="seconds for sessions to end on SIGTERM", unit="seconds", least=0)
    ] = waiting.LEASE / 3
    status_every: Annotated[
        float,
        Setting(
            help="seconds between two status documents while no version changes", unit="seconds", least=0.1
        ),
    ] = waiting.STATUS

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            UsageError: what differs, and what to do.
        """
        Section.__post_init__(self)
        served = self.engine in SERVERS
        if served != (self.engine_url is not None):
            raise UsageError(
                f"--engine {self.engine} needs the address of its server"
                if self.engine_url is None
                else f"--engine-url is of no use with --engine {self.engine}",
                hint="for example --engine openai --engine-url http://127.0.0.1:8080",
            )
        if self.tokens_per_day is not None and self.engine != "openai":
            raise UsageError(
                "--tokens-per-day counts what a server tells", hint="it goes with --engine openai"
            )
        own = self.pair is not None or self.draft not in ("auto", "none") or self.weights != "auto"
        if served and own:
            raise UsageError(
                "models, drafts and weights of a server are its own affair",
                hint="leave --pair, --draft and --weights out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings(Section):
    """Bounds of one device; `Setting.help` has the words.

    As long as nobody else wants it, a device may have all of a worker's time, and as many places and tokens as these
    allow. Where others are refused or wait, shares are equal, device by device.
    """

    device_sessions: Annotated[
        int, Setting(help="live sessions that one device may hold, however few others there are", least=1)
    ] = 64
    device_tokens: Annotated[
        int,
        Setting(help="tokens that the live sessions of one device may hold when one more is opened", least=1),
    ] = 262_144
    device_ms: Annotated[
        float,
        Setting(
            help="ms of each second that reading and answering the messages of one device may take, those left out "
            "that brought drafts which were verified",
            unit="ms",
            above=0,
            most=1000,
        ),
    ] = 25.0
    device_burst_ms: Annotated[
        float, Setting(help="ms that this may come to at once, after a rest", unit="ms", above=0)
    ] = 300.0
    device_deliveries: Annotated[
        int,
        Setting(
            help="answers that are promised to one device or kept for it at the broker, as it asked for a delivery",
            least=1,
        ),
    ] = 64
    deliver_mb: Annotated[
        int,
        Setting(
            help="memory of the broker for answers that this worker keeps there, of all devices",
            unit="MB",
            least=1,
            most=2**20,
        ),
    ] = 64
    deliver_for: Annotated[
        int,
        Setting(
            help="seconds for which an answer is kept there at most; 0 keeps none",
            unit="seconds",
            least=0,
            most=MOST_KEPT,
        ),
    ] = 86_400
    inbound_mb: Annotated[
        int, Setting(help="memory for messages that wait to be read", unit="MB", least=1, most=2**20)
    ] = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySettings(FamilyOptions):
    """The family whose versions the worker serves, and where it gets their heads."""

    heads: Annotated[
        str | None,
        Setting(
            help="folder or URL (https, s3, file, http) below which heads lie, each in a folder named by its digest",
            default="where the catalogue says, if that is not http",
            check=scheme_of,
            path_unless=(),
        ),
    ] = None
    state_dir: Annotated[
        Path | None,
        Setting(
            help="folder for the newest catalogue seen, so that no older one is taken up after it, and for heads",
            default="in the cache",
        ),
    ] = None

    @property
    def folder(self) -> Path:
        """Where the newest catalogue is kept, and heads below that.

        Raises:
            UsageError: none is given, and this user has no home.
        """
        return families_folder(self.state_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """All settings of ``flexspec-cloud``, section by section."""

    worker: WorkerSettings
    quotas: QuotaSettings
    family: FamilySettings
    metrics: MetricsOptions
    link: LinkOptions
    log: LogOptions
    telemetry: TelemetryOptions


_USUAL = (
    "target pair version engine engine_url weights draft threads device broker insecure username password_file tls_ca "
    "keys family"
)
PROGRAM = Program("cloud", CloudConfig, usual=frozenset(_USUAL.split()))
"""``cloud.toml`` and ``FLEXSPEC_CLOUD_…``."""


def add_arguments(parser: argparse.ArgumentParser, *, inner: bool = False) -> None:
    """Add the flags of all settings; `inner` is for a subcommand, since the command itself has them too."""
    add_flags(
        parser,
        PROGRAM,
        titles={
            "quotas": "quotas of a device",
            "family": "family",
            "metrics": "metrics",
            "link": "broker",
            "log": "log",
            "telemetry": "telemetry",
        },
        inner=inner,
    )


def from_arguments(args: argparse.Namespace) -> Loaded[CloudConfig]:
    """Settings from parsed flags, the environment and the file; see `add_arguments`.

    Raises:
        UsageError: an unknown key or an impossible value.
    """
    # The access rules that flexspec-broker writes let a worker use the topics of its own user name.
    return named_after_user(load(PROGRAM, args), "worker", "worker")
