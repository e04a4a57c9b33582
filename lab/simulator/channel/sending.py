"""The sending half of a TCP connection: what is out, when it is given up, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NamedTuple

from lab.simulator.clock import SimulatedClock
from lab.testbed.link.impairment import LEAST_RTO

_FIRST_RTO, LAST_RTO = 1.0, 120.0
"""Seconds until the first attempt is given up while nothing is known, and Linux's bound of any."""
_LINEAR = 4
"""Attempts to connect that are as far apart before that time doubles: Linux's `tcp_syn_linear_timeouts`."""
_PROBE_SLACK = 0.002

Deliver = Callable[[], None]


@dataclass(slots=True, eq=False)
class Segment:
    """Payload on its way.

    Attributes:
        number: place, from 0.
        size: payload bytes.
        deliver: called when it and all before it have arrived; None where a later one ends the write.
        sent: when it was sent last.
        again: whether it was sent more than once.
        arrived: the other end is known to have it, and not all before it.
        lost: a timeout says so, and it was not sent again since.
    """

    number: int
    size: int
    deliver: Deliver | None
    sent: float = 0.0
    again: bool = False
    arrived: bool = False
    lost: bool = False


class Packet(NamedTuple):
    """A packet on its way.

    Attributes:
        segment: None of a bare acknowledgement.
        stamp: when it was sent.
        upto: number of the segment that the sender waits for.
        early: numbers of those that it has beyond; None for none.
        echo: stamp of the newest packet that its sender took in order.
    """

    segment: Segment | None
    stamp: float
    upto: int
    early: frozenset[int] | None
    echo: float


class Sending:
    """Segments that an end has sent and the other one has not acknowledged.

    Args:
        clock: clock of the simulation.
        transmit: puts a segment on the way.
        last_rto: seconds between two attempts, at most.
        connects: whether its first segment is the SYN that asks for a connection.

    Attributes:
        rtt: smoothed round trip in seconds; None before a sample.
        closed: nothing is sent again any more.
    """

    def __init__(
        self, clock: SimulatedClock, transmit: Callable[[Segment], None], last_rto: float, *, connects: bool
    ) -> None:
        self.rtt: float | None = None
        self.closed = False
        self._clock = clock
        self._transmit = transmit
        self._last_rto = last_rto
        self._connects = connects
        self._deviation = 0.0
        self._least_rtt = inf
        self._next = 0
        self._out: dict[int, Segment] = {}
        self._since = 0.0  # when the timeout began to run
        self._fresh = 0.0  # when anything was sent for the first time, last
        self._doubled = 0
        self._probed = False
        self._looks = inf

    def send(self, sizes: list[int], deliver: Deliver) -> None:
        """Send so many bytes in each of some segments; `deliver` is called when all are there."""
        now = self._clock.now
        if not self._out:
            self._since = now
            self._doubled = 0
        self._probed, self._fresh = False, now
        for place, size in enumerate(sizes, 1):
            segment = Segment(self._next, size, deliver if place == len(sizes) else None)
            self._next += 1
            self._out[segment.number] = segment
            segment.sent = now
            self._transmit(segment)
        self._watch()

    def acknowledged(self, packet: Packet) -> None:
        """A packet of the other end has come."""
        if not self._out:
            return
        if self._doubled and packet.upto > next(iter(self._out)) and packet.echo < self._since:
            # The timeout was too short: what is acknowledged is what was sent before it.
            for segment in self._out.values():
                segment.lost = False
        found = self._taken(packet)
        now = self._clock.now
        for segment in found:
            self._since = now
            if not segment.again:
                self._measured(now - segment.sent)
        if packet.early:
            self._repair()
        if found:
            self._send_lost(2 * len(found))

    def _taken(self, packet: Packet) -> list[Segment]:
        """Segments of which it says for the first time that they have arrived."""
        found = []
        while self._out and (first := next(iter(self._out))) < packet.upto:
            found.append(self._out.pop(first))
            self._doubled = 0
        for number in packet.early or ():
            segment = self._out.get(number)
            if segment is not None and not segment.arrived:
                segment.arrived, segment.lost = True, False
                found.append(segment)
        return found

    def _measured(self, sample: float) -> None:
        self._least_rtt = min(self._least_rtt, sample)
        if self.rtt is None:
            self.rtt, self._deviation = sample, sample / 2
            return
        self._deviation += (abs(sample - self.rtt) - self._deviation) / 4
        self.rtt += (sample - self.rtt) / 8

    # What is sent again

    def _again(self, segment: Segment) -> None:
        segment.again, segment.lost = True, False
        segment.sent = self._clock.now
        self._transmit(segment)

    def _repair(self) -> None:
        """Send again what the other end misses although it has what was sent later."""
        newest = max((one.sent for one in self._out.values() if one.arrived), default=-inf)
        if newest == -inf or self.rtt is None:
            return
        now = self._clock.now
        slack = min(self._least_rtt / 4, self.rtt / 8)
        for segment in self._out.values():
            if segment.arrived or segment.sent >= newest:
                continue
            due = segment.sent + self.rtt + slack
            if due <= now:
                self._again(segment)
            else:
                self._watch(due)

    def _send_lost(self, most: int) -> None:
        """After a timeout all that is out counts as lost: it comes again, two for each that arrives (slow start)."""
        for segment in [one for one in self._out.values() if one.lost][:most]:
            self._again(segment)

    def _deadline(self) -> float:
        """When something is due if nothing comes."""
        rto, doubled = _FIRST_RTO, self._doubled
        if self.rtt is not None:
            rto = self.rtt + max(LEAST_RTO, 4 * self._deviation)
        if self._connects and 0 in self._out:
            doubled = max(0, doubled - _LINEAR)
        return min(self._since + min(self._last_rto, rto * 2.0**doubled), self._probe_at())

    def _probe_at(self) -> float:
        """When the last segment is sent again to have the other end say what it misses; infinite for not at all."""
        if len(self._out) < 2 or self._probed or self._doubled or self.rtt is None:
            return inf
        return max(self._since, self._fresh) + 2 * self.rtt + _PROBE_SLACK

    def _watch(self, due: float | None = None) -> None:
        """Look again when something may be due."""
        due = self._deadline() if due is None else due
        if due < self._looks:
            self._looks = due
            self._clock.at(due - self._clock.now, partial(self._look, due))

    def _look(self, due: float) -> None:
        if due != self._looks:
            return
        self._looks = inf
        if self.closed or not self._out:
            return
        now = self._clock.now
        if now < self._deadline():
            self._repair()
        elif now >= self._probe_at():
            self._probed, self._since = True, now
            self._again(next(reversed(self._out.values())))
        else:
            self._since = now
            self._doubled += 1
            for one in self._out.values():
                one.lost = not one.arrived
            # Where all have arrived, what said so of the first was lost.
            next(iter(self._out.values())).lost = True
            self._send_lost(1)
        self._watch()
