"""What changes while a link runs: the state of its channel, drawn or recorded, and outages. Pure and seeded.

A timeline is a function of its seed alone: asked twice about the same time, or by both ways of a link, it answers
the same. It is drawn as far as it was asked about.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from flexspec_mq.link.profiles import LinkPlan, Outages, State


class States(Protocol):
    """Which state a channel is in at which time."""

    def at(self, time: float) -> tuple[int, float]:
        """Index of the state at `time` (seconds from the start), and when it ends (may be infinite)."""
        ...


def states_of(plan: LinkPlan) -> States:
    """Those of a plan: as they were recorded where it says how long each lasts, else drawn."""
    if plan.lasts_s:
        return RecordedStates(plan.lasts_s)
    return StateTimeline(plan.profile.states, random.Random(f"states/{plan.seed}"))  # noqa: S311


class RecordedStates:
    """States that follow one another as they were recorded, over and over.

    Args:
        lasts: seconds of each, all above 0.
    """

    def __init__(self, lasts: Sequence[float]) -> None:
        if not lasts or min(lasts) <= 0:
            raise ValueError("recorded states last longer than 0 seconds")
        self._ends = list(accumulate(lasts))

    def at(self, time: float) -> tuple[int, float]:
        """See `States`; the end always lies behind `time`."""
        period = self._ends[-1]
        began = time // period * period
        place = bisect_right(self._ends, time - began)
        while True:
            if place == len(self._ends):
                began, place = began + period, 0
            if (ends := began + self._ends[place]) > time:
                return place, ends
            place += 1


class StateTimeline:
    """A Markov chain in continuous time over the states of a profile; starts in the first one at 0."""

    def __init__(self, states: tuple[State, ...], rng: random.Random) -> None:
        self._states = states
        self._rng = rng
        self._starts = [0.0]
        self._indices = [0]
        self._ends = math.inf if len(states) == 1 else self._dwell(0)

    def at(self, time: float) -> tuple[int, float]:
        """Index of the state at `time` (seconds from the start), and when it ends (may be infinite)."""
        while time >= self._ends:
            following = self._successor(self._indices[-1])
            self._starts.append(self._ends)
            self._indices.append(following)
            self._ends += self._dwell(following)
        place = bisect_right(self._starts, time) - 1
        ends = self._starts[place + 1] if place + 1 < len(self._starts) else self._ends
        return self._indices[place], ends

    def _dwell(self, index: int) -> float:
        mean = self._states[index].dwell_s
        if mean is None:
            raise ValueError("a chain of several states needs a dwell time for each")
        return self._rng.expovariate(1 / mean.value)

    def _successor(self, index: int) -> int:
        weights = self._states[index].next
        others = [i for i in range(len(self._states)) if i != index]
        if not weights:
            return self._rng.choice(others)
        return self._rng.choices(others, [weights.get(self._states[i].name, 0.0) for i in others])[0]


class OutageTimeline:
    """Outages, each a half-open interval; none at 0. Without a specification there are none."""

    def __init__(self, spec: Outages | None, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._starts: list[float] = []
        self._ends: list[float] = []

    def touching(self, start: float, end: float) -> float | None:
        """The end of the first outage that overlaps ``[start, end]``, or None."""
        if self._spec is None:
            return None
        while not self._starts or self._starts[-1] <= end:
            self._extend(self._spec)
        place = bisect_right(self._ends, start)
        return self._ends[place] if self._starts[place] <= end else None

    def between(self, start: float, end: float) -> list[tuple[float, float]]:
        """All outages that overlap ``[start, end]``."""
        if self._spec is None:
            return []
        self.touching(start, end)
        return [(s, e) for s, e in zip(self._starts, self._ends, strict=True) if s <= end and e > start]

    def _extend(self, spec: Outages) -> None:
        begins = (self._ends[-1] if self._ends else 0.0) + self._rng.expovariate(1 / spec.gap_s.value)
        low, high = math.log(spec.shortest_s.value), math.log(spec.longest_s.value)
        length = math.exp(low + (high - low) * self._rng.random())
        self._starts.append(begins)
        self._ends.append(begins + min(max(length, spec.shortest_s.value), spec.longest_s.value))
