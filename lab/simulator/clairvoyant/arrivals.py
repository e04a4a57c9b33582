"""When a message can be there at the earliest, over a link whose states and outages are known."""

from __future__ import annotations

from math import inf

from lab.testbed.link.profiles import LinkPlan, Way
from lab.testbed.link.timeline import outages_of, states_of


class Arrivals:
    """One way of a link, for somebody who may send as often as he likes and is always lucky.

    No jitter, no loss, no packet before: what is left is the least delay of each state, and outages.

    Args:
        plan: of the link; None is loopback.
        way: which one.
        begins_s: second of the channel at which time 0 is.
    """

    def __init__(self, plan: LinkPlan | None, way: Way, begins_s: float = 0.0) -> None:
        self._plan = plan
        if plan is None:
            return
        self._begins = begins_s
        self._states = states_of(plan)
        self._delays = [state.figures(way).delay_ms.value / 1000 for state in plan.profile.states]
        self._outages = outages_of(plan, way)

    def earliest(self, time: float) -> float:
        """Of what is sent at `time` (seconds) or later; never falls as that rises."""
        if self._plan is None or time == inf:
            return time
        now, best = self._begins + time, inf
        while now < best:
            now = self._behind_outages(now)
            state, ends = self._states.at(now)
            best = min(best, self._behind_outages(now + self._delays[state]))
            now = ends
        return best - self._begins

    def _behind_outages(self, time: float) -> float:
        while (until := self._outages.touching(time, time)) is not None:
            time = until
        return time
