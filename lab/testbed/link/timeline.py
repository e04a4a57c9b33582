"""Changes while a link runs: the state of its channel, drawn or given, and outages. Pure and seeded.

A timeline is a function of its seed alone: asked twice about the same time, or by both ways of a link, it answers
the same. It is drawn as far as it was asked about.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from typing import Protocol

from flexspec_mq.demo.proxy import Way
from lab.testbed.link.profiles import LinkPlan, Outages, State

Interval = tuple[float, float]
"""Start and end, in seconds of the channel; half-open."""


class States(Protocol):
    """Which state a channel is in at which time."""

    def at(self, time: float) -> tuple[int, float]:
        """Index of the state at `time` (seconds from the start), and when it ends (may be infinite)."""
        ...


def states_of(plan: LinkPlan) -> States:
    """States of a plan: one after the other where it says how long each lasts, else drawn."""
    if plan.lasts_s:
        return StatesInTurn(plan.lasts_s)
    return StateTimeline(plan.profile.states, random.Random(f"states/{plan.seed}"))


class StatesInTurn:
    """States that follow one another, over and over.

    Args:
        lasts: seconds of each, all above 0.
    """

    def __init__(self, lasts: Sequence[float]) -> None:
        if not lasts or min(lasts) <= 0:
            raise ValueError("states in turn last longer than 0 seconds")
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


def outages_of(plan: LinkPlan, way: Way) -> OutageTimeline:
    """Outages that hit one way of a link: as the plan says where it names any, else drawn."""
    if plan.outages:
        hit = [(one.starts_s, one.ends_s) for one in plan.outages]
        return OutageTimeline(repeated_outages(hit, sum(plan.lasts_s)))
    spec = plan.profile.outages
    if spec is None or spec.ways not in ("both", way):
        return OutageTimeline(iter(()))
    return OutageTimeline(drawn_outages(spec, random.Random(f"outages/{plan.seed}")))


def drawn_outages(spec: Outages, rng: random.Random) -> Iterator[Interval]:
    """Outages one after the other, without end; none at 0."""
    low, high = math.log(spec.shortest_s.value), math.log(spec.longest_s.value)
    ended = 0.0
    while True:
        begins = ended + rng.expovariate(1 / spec.gap_s.value)
        length = math.exp(low + (high - low) * rng.random())
        ended = begins + min(max(length, spec.shortest_s.value), spec.longest_s.value)
        yield begins, ended


def repeated_outages(found: Sequence[Interval], period: float) -> Iterator[Interval]:
    """The same ones again every `period` seconds, without end where there are any.

    Raises:
        ValueError: one ends behind the period.
    """
    if found and found[-1][1] > period:
        raise ValueError("outages end within the period with which they come again")
    for turn in count() if found else ():
        for start, end in found:
            yield turn * period + start, turn * period + end


class OutageTimeline:
    """Outages, each a half-open interval.

    Args:
        outages: outages in their order and without overlap; taken as far as was asked about.
    """

    def __init__(self, outages: Iterator[Interval]) -> None:
        self._outages = outages
        self._starts: list[float] = []
        self._ends: list[float] = []

    def touching(self, start: float, end: float) -> float | None:
        """The end of the first outage that overlaps ``[start, end]``, or None."""
        self._extend(end)
        place = bisect_right(self._ends, start)
        return self._ends[place] if place < len(self._ends) and self._starts[place] <= end else None

    def between(self, start: float, end: float) -> list[Interval]:
        """All outages that overlap ``[start, end]``."""
        self._extend(end)
        return [(s, e) for s, e in zip(self._starts, self._ends, strict=True) if s <= end and e > start]

    def _extend(self, end: float) -> None:
        """Take outages until one starts after `end`."""
        while not self._starts or self._starts[-1] <= end:
            following = next(self._outages, None)
            if following is None:
                return
            self._starts.append(following[0])
            self._ends.append(following[1])
