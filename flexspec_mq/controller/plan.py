"""The plan for the next draft batch, and the interface of what makes it.

By default `closed_form.py` does: it says how long a batch is, who drafts it, and why.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from flexspec_mq.controller.observation import Observation
from flexspec_mq.errors import UsageError
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS, MAX_IN_FLIGHT
from schemas.plan import LimitReport, PlanAlternative


@dataclass(frozen=True, slots=True)
class Plan:
    """The edge's next steps.

    Attributes:
        draft_length: K, tokens per batch; 0 asks the target for one token at a time.
        in_flight: W, batches that may be unanswered.
        qos: MQTT quality of service for drafts and opens, 0 to 2.
        ahead: tokens that the worker may decode beyond what it knows the edge to have.
        confidence_threshold: joint acceptance (probability that a token and all drafted ones before it are right)
            below which a batch ends early; 0 never ends one.
        worker_draft: tokens of its own that a worker with a draft may put behind ours in one forward. Their
            decisions count as `ahead`.
        open_qos: quality of service of opens; None is `qos`. At 1 and 2 the broker tells whether anybody listens.
        trip_age: seconds. Where the worker runs ahead and no batch is under way that could tell the round trip, an
            answer is asked for once the newest one is so old; None never asks.
    """

    draft_length: int = 4
    in_flight: int = 1
    qos: int = 0
    ahead: int = 0
    confidence_threshold: float = 0.0
    worker_draft: int = 0
    open_qos: int | None = None
    trip_age: float | None = None

    def __post_init__(self) -> None:
        """Refuse what the protocol does not allow.

        Raises:
            UsageError: naming the value and its bounds.
        """
        for name, value, top in (
            ("draft_length", self.draft_length, MAX_DRAFT_TOKENS),
            ("qos", self.qos, 2),
            ("open_qos", self.open_qos or 0, 2),
            ("ahead", self.ahead, MAX_AHEAD),
            ("worker_draft", self.worker_draft, MAX_DRAFT_TOKENS),
        ):
            if not 0 <= value <= top:
                raise UsageError(f"{name} {value} is not between 0 and {top}")
        stop = self.confidence_threshold
        if not 0 <= stop < 1:
            raise UsageError(f"stop {stop} is not between 0 and 1", hint="0 never ends a batch early")
        if not 1 <= self.in_flight <= MAX_IN_FLIGHT:
            raise UsageError(f"in_flight {self.in_flight} is not between 1 and {MAX_IN_FLIGHT}")
        if self.trip_age is not None and self.trip_age <= 0:
            raise UsageError(f"trip_age {self.trip_age} is not above 0")


STREAM = Plan(draft_length=0, ahead=MAX_AHEAD, open_qos=1, trip_age=2.0)
"""The plan for a target that writes on by itself, and for which nobody drafts."""


class Policy(ABC):
    """Makes plans, by an instance for each session, which may keep state and tell how it chose."""

    @abstractmethod
    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch from what was seen so far."""

    def alternatives(self) -> Sequence[PlanAlternative]:
        """Plans that the newest one was chosen among, itself included, in any order; none where nothing is compared."""
        return ()

    def limits(self) -> Sequence[LimitReport]:
        """How the limits that were given are kept, as of the newest plan."""
        return ()

    def ended(self, seen: Observation) -> None:
        """Take what the whole text came to."""
        del seen


class FixedPolicy(Policy):
    """The plan from configuration, whatever the channel does.

    Args:
        fixed: the plan.
    """

    def __init__(self, fixed: Plan) -> None:
        self.fixed = fixed

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        """Return the configured plan."""
        return self.fixed
