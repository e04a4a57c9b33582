"""Simulated time: events in one queue, carried out in the order of their times."""

import heapq
import itertools
from collections.abc import Callable
from functools import partial
from math import inf


class SimulatedClock:
    """A clock that goes from event to event.

    Attributes:
        now: seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def wait(self, until: float) -> None:
        """Let time pass up to then, whatever is due; never back."""
        self.now = max(self.now, until)

    @property
    def next(self) -> float:
        """When the next event is; infinite without one."""
        return self._queue[0][0] if self._queue else inf

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Have something happen so many seconds from now. Events of one time happen in the order of asking."""
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def step(self) -> bool:
        """Carry out the next event; False without one."""
        if not self._queue:
            return False
        at, _, action = heapq.heappop(self._queue)
        self.wait(at)
        action()
        return True


class Alarm:
    """Rings once at the earliest time that was asked for since it last rang.

    Args:
        clock: clock of the simulation.
        ring: called then.
    """

    def __init__(self, clock: SimulatedClock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._due: float | None = None

    def by(self, due: float | None) -> None:
        """Ring at this time, or as soon as it can if that is over; None is never."""
        if due is None or (self._due is not None and self._due <= due):
            return
        self._due = due
        self._clock.at(max(0.0, due - self._clock.now), partial(self._rings, due))

    def _rings(self, due: float) -> None:
        if due == self._due:  # else an earlier one was asked for meanwhile
            self._due = None
            self._ring()
