"""Which plan is fastest, by a closed form over what the node has measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flexspec_mq.controller.choices import LENGTHS, Choice, choices, forecast, pace_of
from flexspec_mq.controller.forecast import Forecast
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.who_drafts import WhoDrafts

_DRAFTED = 0.005
"""What drafting a token on the device is worth avoiding, as a share of the time of a token: it takes energy."""
_BETTER = 0.03
"""Another plan has to be better by so much: estimates are no better than that."""
_PROBE = 16
"""Where the worker does not run ahead it cannot show that it drafts: one plan in so many lets it."""


@dataclass(slots=True)
class ThresholdPolicy:
    """The plan with the least expected seconds for a token, of all lengths and windows, with run-ahead or without.

    A worker that drafts is left to it. Otherwise the device drafts as long as a batch is worth its time,
    and nobody does where none is.

    Attributes:
        base: everything else of the plan, and the plan while nothing is known. Its draft length 0 leaves drafting to
            the worker; its run-ahead 0 allows none.
        most: K at most.
    """

    base: Plan
    most: int = LENGTHS[-1]
    _who: WhoDrafts = field(default_factory=WhoDrafts)
    _chosen: Choice | None = None
    _plans: int = 0
    _wait: float = 0.0

    def plan(self, seen: Observation) -> Plan:
        """The plan for the next batch."""
        base, who = self.base, self._who
        self._plans += 1
        who.saw(seen)
        may_run_ahead = base.ahead > 0
        if not base.draft_length or (may_run_ahead and who.alone):
            made = replace(base, draft_length=0)
            return who.running_ahead(made) if may_run_ahead else made
        chosen = self._choose(seen, may_run_ahead=may_run_ahead)
        if chosen is None:
            return who.running_ahead(base) if may_run_ahead else base
        made = chosen.within(base)
        if chosen.ahead or (may_run_ahead and self._plans % _PROBE == 0):
            made = who.running_ahead(replace(made, ahead=base.ahead))
        return made

    def _choose(self, seen: Observation, *, may_run_ahead: bool) -> Choice | None:
        """The fastest of all; the one of before while that is as good; None while nothing is known."""
        before = self._chosen
        if before is not None and not before.ahead and seen.queue_mean is not None:
            self._wait = seen.queue_mean
        pace = pace_of(seen, self._wait)
        if pace is None:
            return None
        most = self.most if seen.granted is None else min(self.most, seen.granted)
        able = choices(most, may_run_ahead=may_run_ahead)
        costs = {choice: _cost(forecast(choice, pace)) for choice in able}
        best = min(costs, key=costs.__getitem__)
        if before in costs and costs[best] > costs[before] * (1 - _BETTER):
            best = before
        self._chosen = best
        return best


def _cost(found: Forecast) -> float:
    return found.seconds * (1 + _DRAFTED * found.drafted)
