"""The impairment itself: a packet comes in at one time, and goes out at another or never.

Sans-IO: no sockets, no clock, no threads. Times are seconds of the channel, passed in: a link comes up at its plan's
`begins_s`, mostly 0. All chance comes from the plan's seed and this time, so equal traffic at equal times meets an
equal fate.

A packet passes four stages::

    queue (bounded, drop-tail) → jitter → the link's rate → loss → delay

Jitter comes before the rate, so that what it held back cannot leave faster than the link allows, and nothing is
reordered.
"""

import enum
import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from flexspec_mq.demo.proxy import Way
from lab.testbed.link.counters import WayCounters
from lab.testbed.link.profiles import LinkPlan, WayFigures
from lab.testbed.link.timeline import States, outages_of, states_of


class StateRate:
    """Bits per second by state; a packet that sees the state change goes on at the new rate.

    Args:
        timeline: the states'.
        rates: bits per second in each state, all above 0.
    """

    def __init__(self, timeline: States, rates: Sequence[float]) -> None:
        self._timeline = timeline
        self._rates = rates
        self._free = 0.0

    def transmit(self, ready: float, size: int) -> tuple[float, float]:
        """Send `size` bytes that are there from `ready` on; returns start and end in seconds."""
        time = start = max(ready, self._free)
        bits = size * 8.0
        while True:
            state, ends = self._timeline.at(time)
            rate = self._rates[state]
            if time + bits / rate <= ends:
                self._free = time + bits / rate
                return start, self._free
            bits -= (ends - time) * rate
            time = ends


SEGMENT = 1448
"""Payload bytes of a TCP segment on a link of 1,500 bytes; a proxy's losses are drawn per segment."""
LEAST_RTO = 0.2
"""Seconds; Linux' smallest retransmission timeout."""


class Drop(enum.Enum):
    """Why a packet does not arrive."""

    OVERFLOW = "the queue was full"
    LOSS = "lost at random"
    OUTAGE = "it met an outage"


class _Chance(NamedTuple):
    """Draws for a packet: an exponential of mean 1, and a uniform from 0 to 1."""

    jitter: float
    loss: float


class Impairment:
    """A way of a link.

    Args:
        plan: the link's; both ways take the same one, and so share its states and outages.
        way: which one this is.
        counters: ones to go on with; new ones if not given.

    Attributes:
        counters: numbers of what came in and what was dropped; `LinkCounters.went_out` counts what went out.
    """

    def __init__(self, plan: LinkPlan, way: Way, counters: WayCounters | None = None) -> None:
        self.counters = WayCounters() if counters is None else counters
        self._figures = [state.figures(way) for state in plan.profile.states]
        self._states = states_of(plan)
        self.outages = outages_of(plan, way)
        begins = f" {plan.begins_s}" if plan.begins_s else ""
        self._rng = random.Random(f"{way} {plan.seed}{begins}")
        self._rate = StateRate(self._states, [figures.rate_mbit.value * 1e6 for figures in self._figures])
        self._waiting: deque[tuple[float, int]] = deque()
        self._backlog = 0
        self._last_ready = 0.0
        self._last_out = 0.0

    def arrive(self, now: float, size: int) -> float | Drop:
        """A packet of `size` bytes comes at `now`: when does it go out, or why not?

        Calls come in the order of time.
        """
        chance = self._come(now, size)
        figures = self._figures[self._states.at(now)[0]]
        if self._backlog + size > figures.queue_kb.value * 1000:
            self.counters.overflowed += 1
            return Drop.OVERFLOW
        sent, out = self._pass(now, size, figures, chance)
        self._occupy(sent[1], size)
        if self.outages.touching(*sent) or self.outages.touching(out, out):
            self.counters.in_outage += 1
            return Drop.OUTAGE
        if chance.loss * 100 < figures.loss_percent.value:
            self.counters.lost += 1
            return Drop.LOSS
        return self._in_order(out)

    def hold(self, now: float, size: int) -> float:
        """As `arrive`, for a piece of a stream, which can be late but not lost.

        A lost packet would come a retransmission timeout later: 200 ms, or twice the delay if that is more. An
        outage stalls it until its end. There is no queue limit; the caller stops reading instead (see `room_at`).
        """
        chance = self._come(now, size)
        figures = self._figures[self._states.at(now)[0]]
        sent, out = self._pass(now, size, figures, chance)
        survives = (1 - figures.loss_percent.value / 100) ** -(-size // SEGMENT)
        if chance.loss >= survives:
            self.counters.lost += 1
            out += max(LEAST_RTO, 2 * figures.delay_ms.value / 1000)
        if self.outages.touching(sent[0], out) is not None:
            self.counters.in_outage += 1
        while (until := self.outages.touching(sent[0], out)) is not None:
            sent, out = self._pass(until, size, figures, chance)
        self._occupy(sent[1], size)
        return self._in_order(out)

    def backlog(self, now: float) -> int:
        """Bytes that came in and are not sent yet."""
        while self._waiting and self._waiting[0][0] <= now:
            self._backlog -= self._waiting.popleft()[1]
        return self._backlog

    def room_at(self, now: float) -> float:
        """When the queue is no longer over full; not before `now`."""
        excess = self.backlog(now) - self._figures[self._states.at(now)[0]].queue_kb.value * 1000
        for until, size in self._waiting:
            if excess <= 0:
                break
            now, excess = until, excess - size
        return now

    def rate(self, now: float) -> float:
        """Bits per second in the state at `now`."""
        return self._figures[self._states.at(now)[0]].rate_mbit.value * 1e6

    def _come(self, now: float, size: int) -> _Chance:
        self.counters.packets_in += 1
        self.counters.bytes_in += size
        self.backlog(now)
        # Drawn for every packet, so that the fate of one does not shift the chances of those after it.
        return _Chance(self._rng.expovariate(1.0), self._rng.random())

    def _pass(
        self, now: float, size: int, figures: WayFigures, chance: _Chance
    ) -> tuple[tuple[float, float], float]:
        """Through jitter, rate and delay: start and end of sending, and the time of arrival."""
        self._last_ready = max(self._last_ready, now + chance.jitter * figures.jitter_ms.value / 1000)
        sent = self._rate.transmit(self._last_ready, size)
        return sent, sent[1] + figures.delay_ms.value / 1000

    def _occupy(self, until: float, size: int) -> None:
        self._waiting.append((until, size))
        self._backlog += size

    def _in_order(self, out: float) -> float:
        self._last_out = max(self._last_out, out)
        return self._last_out
