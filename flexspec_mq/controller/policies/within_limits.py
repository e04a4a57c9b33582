"""Any policy's plans, within limits: those that are expected to break one are replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexspec_mq.controller.calibration import Calibration, Check
from flexspec_mq.controller.choices import NOBODY, Choice, forward_of
from flexspec_mq.controller.explain import Alternative, Explains, LimitReport
from flexspec_mq.controller.limits.choosing import Bounds, allowed
from flexspec_mq.controller.limits.means import Ledger, TokenPace
from flexspec_mq.controller.limits.outlook import ASKING, Option, Outlook
from flexspec_mq.controller.limits.states import LimitStates, state_of
from flexspec_mq.controller.plan import HearsEnd, Learner, Observation, Plan, Policy, StandsBy
from flexspec_mq.controller.policies.closed_form import carried_out
from flexspec_mq.controller.stopping import choice_of
from flexspec_mq.controller.turn import Turn
from flexspec_mq.controller.who_drafts import WhoDrafts

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping, Sequence

    from flexspec_mq.controller.limits.choosing import Allowed
    from flexspec_mq.controller.limits.limits import Limits

_NAME = "limits"
_TRIES = 8
"""Plans of a text by which a draft is timed that never was."""
_TIMED = 2
"""K of these."""


@dataclass(slots=True)
class _Shared:
    """What the texts of a node have in common."""

    ledger: Ledger = field(default_factory=Ledger)
    calibration: Calibration = field(default_factory=Calibration)
    states: LimitStates = field(default_factory=LimitStates)


@dataclass(slots=True)
class WithinLimits:
    """The inner policy's plans where no limit excludes them, else the best that limits leave.

    A battery below its floor excludes drafts of the device. Of the rest, plans are excluded that are expected to take
    more joules than the budget leaves; where none is within it, the one that takes the least is carried out. With a
    latency target the inner policy is not followed: of what is left the plan is carried out that takes the least
    joules (or bytes, where no energy is known) of those within the target; where none is, the fastest.

    Attributes:
        inner: makes the plans.
        base: everything else of the plan. Its draft length 0 leaves drafting to the worker; its run-ahead 0 allows
            none.
        given: what is limited.
    """

    inner: Policy
    base: Plan
    given: Limits
    _shared: _Shared = field(default_factory=_Shared)
    _outlook: Outlook = field(init=False)
    _check: Check = field(init=False)
    _who: WhoDrafts = field(default_factory=WhoDrafts)
    _pace: TokenPace = field(default_factory=TokenPace)
    _beginning: float | None = None
    _joules: float = 0.0
    _committed: int = 0
    _tries: int = 0
    _turn: Turn = field(default_factory=Turn)
    _drafts: bool = False
    _chosen: Option | None = None
    _left: Allowed | None = None
    _reports: tuple[LimitReport, ...] = ()

    def __post_init__(self) -> None:
        """Until there is a node's memory, it has its own."""
        self._share(self._shared)

    def _share(self, shared: _Shared) -> None:
        self._shared, self._check = shared, Check(shared.calibration)
        self._outlook = Outlook(self.base, shared.calibration, self.given.energy)

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """See `Learner`."""
        known = memory.setdefault(_NAME, self._shared)
        if isinstance(known, _Shared):
            self._share(known)
        if isinstance(self.inner, Learner):
            self.inner.recall(memory)

    def plan(self, seen: Observation) -> Plan:
        """The plan for the next batch."""
        self._who.saw(seen)
        self._turn.saw(seen)
        self._enter(seen)
        plan = self.inner.plan(seen)
        if seen.rtt is None or not forward_of(seen):
            made = self._before_anything(plan, seen)
        else:
            made = self._chosen_plan(plan, seen)
        if made is not plan and isinstance(self.inner, StandsBy):
            self.inner.stands_by(seen)
        self._turn.planned(made)
        self._drafts = self._drafts or made.draft_length > 0
        return made

    def ended(self, seen: Observation) -> None:
        """See `HearsEnd`."""
        self._enter(seen)
        if self._beginning is not None:
            self._shared.ledger.ended(self._beginning, seen.committed)
        self._reports = tuple(self._report(seen))
        if isinstance(self.inner, HearsEnd):
            self.inner.ended(seen)

    def alternatives(self) -> Sequence[Alternative]:
        """See `Explains`: the best of each kind, those that limits exclude apart, and what was chosen."""
        found, chosen = self._left, self._chosen
        if found is None or chosen is None:
            return self.inner.alternatives() if isinstance(self.inner, Explains) else ()
        slowest_first = sorted(found.options, key=lambda one: one.seconds, reverse=True)
        told = list({(one in found.left, one.choice.kind): one for one in slowest_first}.values())
        if all(one.choice != chosen.choice for one in told):
            told.append(chosen)
        return [
            Alternative(
                one.name,
                one.seconds,
                one.choice == chosen.choice,
                one.joules,
                one in found.left or one is chosen,
            )
            for one in told
        ]

    def limits(self) -> Sequence[LimitReport]:
        """See `Limited`."""
        return self._reports

    # How it is done

    def _enter(self, seen: Observation) -> None:
        """What was spent and decided since the plan before."""
        tokens, self._committed = seen.committed - self._committed, seen.committed
        if seen.joules is not None:
            self._shared.ledger.spent(max(0.0, seen.joules - self._joules), tokens)
            self._joules = max(self._joules, seen.joules)
            if self._beginning is None and seen.committed:
                self._beginning = seen.joules
        chosen = self._chosen
        if seen.at is not None and chosen is not None:
            self._check.goes_on(chosen.choice, chosen.forecast, seen.committed, seen.at)
        self._reports = tuple(self._report(seen))
        if self.given.tell is not None:
            for report in self._reports:
                self._shared.states.saw(report, tokens, self.given.tell)

    def _before_anything(self, plan: Plan, seen: Observation) -> Plan:
        """The inner plan, but for drafts of the device where these are to be spared."""
        if not plan.draft_length or (self.given.energy_budget is None and not self._low(seen)):
            return plan
        return carried_out(NOBODY if self.base.ahead else ASKING, self.base, self._who, seen)

    def _chosen_plan(self, plan: Plan, seen: Observation) -> Plan:
        before, outlook = self._chosen, self._outlook
        outlook.saw(seen, self._turn.seconds, drafts=self._drafts)
        bounds = self._bounds(seen)
        left = self._left = allowed(outlook.options(), bounds)
        if self._times_a_draft(seen, bounds):
            self._tries += 1
            self._chosen = outlook.option(Choice(_TIMED, 1, self.base.ahead > 0))
        elif self.given.latency_target is None:
            self._chosen = outlook.option(choice_of(plan, self.base))
            if left.has(self._chosen, bounds):
                return plan
            self._chosen = left.best(before, frugal=False)
        else:
            self._chosen = left.best(before, frugal=True)
        choice = self._chosen.choice
        return carried_out(choice, self.base, self._who, seen)

    def _bounds(self, seen: Observation) -> Bounds:
        budget, target = self.given.energy_budget, self.given.latency_target
        if budget is not None and seen.joules is not None:
            budget = self._shared.ledger.allowed(budget, seen.remaining)
        seconds = None if target is None else self._pace.allowed(target, seen)
        return Bounds(budget, seconds, not self._low(seen))

    def _low(self, seen: Observation) -> bool:
        floor = self.given.battery_floor
        return floor is not None and seen.battery is not None and seen.battery < floor

    def _times_a_draft(self, seen: Observation, bounds: Bounds) -> bool:
        """Whether to draft only to learn how long that takes, without which drafts may never be within limits."""
        unknown = seen.draft_time is None and not seen.drafted
        may = bounds.drafts and self.base.draft_length >= _TIMED
        return unknown and may and seen.committed > 0 and self._tries < _TRIES

    def _report(self, seen: Observation) -> Iterator[LimitReport]:
        given, left, ledger = self.given, self._left, self._shared.ledger
        budget, floor, target = given.energy_budget, given.battery_floor, given.latency_target
        if budget is not None:
            least = None if left is None or left.joules is None else left.joules + ledger.beginning
            state = state_of(budget, ledger.mean, least)
            yield LimitReport("energy_budget", budget, "J per token", state, ledger.mean, least)
        if floor is not None:
            charge = None if seen.battery is None else 100 * seen.battery
            yield LimitReport(
                "battery_floor", 100 * floor, "%", "below" if self._low(seen) else "kept", charge
            )
        if target is not None:
            mean, least = self._pace.mean(seen), None if left is None else left.seconds
            state = state_of(target, mean, least)
            yield LimitReport("latency_target", 1000 * target, "ms per token", state, _ms(mean), _ms(least))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
