"""Settings of a simulation, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexspec_mq.controller.explain import Explains
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from lab.simulator.clock import SimulatedClock
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording
from lab.simulator.worker import WorkerKind
from lab.testbed.link.profiles import LinkPlan
from schemas.plan import LimitReport, PlanAlternative

Policies = Callable[[], Policy]
"""Makes the policy of each text."""
LIKE_OURS = WorkerKind()
"""A `flexspec-cloud` as it comes, with a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Settings of a simulation.

    Attributes:
        recording: recording with all texts.
        times: times of worker and devices.
        link: between device and broker; None is loopback.
        drafts: the device has a draft.
        lookup: which looks up as well, as that of a real edge node does.
        worker: how the worker serves.
        others: more sessions at the worker, of devices that write one text after the other and reach the broker
            without the link.
        settle: seconds that these write before the first answer is asked for.
        seed: seed of all chance. Equal seeds meet equal channels, whatever the policy.
    """

    recording: Recording
    times: Measured
    link: LinkPlan | None = None
    drafts: bool = True
    lookup: bool = True
    worker: WorkerKind = LIKE_OURS
    others: int = 0
    settle: float = 5.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, and what it cost.

    Attributes:
        problem: why it is not the recorded text; empty if it is.
        seconds: from the asking to the last token.
        first: seconds to the first one.
        tokens: tokens of it.
        rounds: verdicts that brought some.
        drafted: tokens that the device drafted, of use or not.
        judged, accepted: of these, decided by the target, and found right.
        plans: plans with seconds after the asking; only where they changed.
    """

    problem: str
    seconds: float
    first: float
    tokens: int
    rounds: int
    drafted: int
    judged: int
    accepted: int
    plans: tuple[tuple[float, Plan], ...]


class TracedPolicy:
    """A policy, and what it planned when.

    Args:
        policy: asked.
        clock: clock of the simulation.
        plans: gets each plan that differs from the one before, and its time.
    """

    def __init__(self, policy: Policy, clock: SimulatedClock, plans: list[tuple[float, Plan]]) -> None:
        self._policy = policy
        self._clock = clock
        self._plans = plans

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch."""
        plan = self._policy.plan(seen)
        if not self._plans or self._plans[-1][1] != plan:
            self._plans.append((self._clock.now, plan))
        return plan

    def ended(self, seen: Observation) -> None:
        """See `Explains`."""
        if isinstance(self._policy, Explains):
            self._policy.ended(seen)

    def alternatives(self) -> Sequence[PlanAlternative]:
        """See `Explains`."""
        return self._policy.alternatives() if isinstance(self._policy, Explains) else ()

    def limits(self) -> Sequence[LimitReport]:
        """See `Explains`."""
        return self._policy.limits() if isinstance(self._policy, Explains) else ()
