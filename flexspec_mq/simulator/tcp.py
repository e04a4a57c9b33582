"""One TCP connection over an impaired link, in simulated time: what Linux does with small writes and lost packets.

Each write is a segment of its own, as Nagle's algorithm is off, or several where it is longer than one. Segments that
are lost come again: at once where the other end has what was sent later (RACK's rule), after two round trips where
more than one is out and nothing comes back (a tail loss probe), else after the retransmission timeout, which doubles.
An end that answers soon is interactive: its acknowledgements ride on what it sends, for 40 ms at most; another one
acknowledges at once. There is no congestion window: sessions send a few kilobytes at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from flexspec_mq.link.impairment import LEAST_RTO, SEGMENT
from flexspec_mq.simulator.clock import SimulatedClock
from flexspec_mq.simulator.way import Way

HEADERS = 52
"""Bytes of IP and TCP before the payload, time stamps included."""
_SACK = 12
"""Bytes of an acknowledgement that tells of a hole."""
_DELAYED = 0.04
"""Seconds that an acknowledgement waits for something to ride on."""
_FIRST_RTO, _LAST_RTO = 1.0, 120.0
_PROBE_SLACK = 0.002

Deliver = Callable[[], None]


@dataclass(slots=True, eq=False)
class _Segment:
    """Payload on its way.

    Attributes:
        number: its place, from 0.
        size: payload bytes.
        deliver: called when it and all before it have arrived; None where a later one ends the write.
        sent: when it was sent last.
        again: it was sent more than once.
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


class End:
    """One end of a connection.

    Args:
        clock: of the simulation.
        way: that its packets take.

    Attributes:
        peer: the other end; set before anything is sent.
        interactive: it answers what it gets.
        closed: nothing is sent or received any more.
        heard: when something came last.
        rtt: smoothed round trip in seconds; None before a sample.
    """

    peer: End

    def __init__(self, clock: SimulatedClock, way: Way) -> None:
        self.interactive = False
        self.closed = False
        self.heard = clock.now
        self.rtt: float | None = None
        self._clock = clock
        self._way = way
        self._deviation = 0.0
        self._least_rtt = inf
        # What it sends.
        self._next = 0
        self._out: dict[int, _Segment] = {}
        self._since = 0.0  # when the timers began to run
        self._doubled = 0
        self._probed = False
        self._looks = inf
        # What it receives.
        self._expected = 0
        self._early: dict[int, _Segment] = {}
        self._data_at = -inf
        self._owed_since: float | None = None
        self._owed = 0
        self._wakes = inf

    def send(self, size: int, deliver: Deliver) -> None:
        """Write so many bytes; `deliver` is called when they are there.

        Does nothing once the connection is closed.
        """
        if self.closed:
            return
        now = self._clock.now
        if now - self._data_at < _DELAYED:
            self.interactive = True
        if not self._out:
            self._since = now
            self._doubled = 0
        self._probed = False
        while True:
            last = size <= SEGMENT
            segment = _Segment(self._next, min(size, SEGMENT), deliver if last else None)
            self._next += 1
            self._out[segment.number] = segment
            self._transmit(segment)
            if last:
                break
            size -= SEGMENT
        self._watch()

    # Sending

    def _transmit(self, segment: _Segment) -> None:
        segment.sent = self._clock.now
        self._owed_since, self._owed = None, 0
        self._packet(HEADERS + segment.size, segment)

    def _packet(self, size: int, segment: _Segment | None) -> None:
        """Send a packet, which acknowledges all that has come."""
        delay = self._way.carry(size)
        if delay is not None:
            early = frozenset(self._early) if self._early else None
            self._clock.at(delay, partial(self.peer.arrives, segment, self._expected, early))

    def _again(self, segment: _Segment) -> None:
        segment.again, segment.lost = True, False
        self._transmit(segment)

    @property
    def _rto(self) -> float:
        if self.rtt is None:
            return _FIRST_RTO
        return self.rtt + max(LEAST_RTO, 4 * self._deviation)

    def _deadline(self) -> float:
        """When something is due if nothing comes."""
        timeout = min(_LAST_RTO, self._rto * 2.0**self._doubled)
        if len(self._out) > 1 and not self._probed and not self._doubled and self.rtt is not None:
            timeout = min(timeout, 2 * self.rtt + _PROBE_SLACK)
        return self._since + timeout

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
            self._watch()
            return
        probe = len(self._out) > 1 and not self._probed and not self._doubled
        self._since = now
        if probe:
            self._probed = True
            self._again(next(reversed(self._out.values())))
        else:
            self._doubled += 1
            for one in self._out.values():
                one.lost = not one.arrived
            # Where all have arrived, what said so of the first was lost.
            next(iter(self._out.values())).lost = True
            self._send_lost(1)
        self._watch()

    def _send_lost(self, most: int) -> None:
        """After a timeout all that is out counts as lost: it is sent again, two for each that arrives (slow start)."""
        for segment in [one for one in self._out.values() if one.lost][:most]:
            self._again(segment)

    def _acknowledged(self, upto: int, early: frozenset[int] | None) -> None:
        now, sample, count = self._clock.now, None, 0
        while self._out and (first := next(iter(self._out))) < upto:
            segment = self._out.pop(first)
            if not segment.again:
                sample = now - segment.sent
            self._since, self._doubled, count = now, 0, count + 1
        if early:
            for number in early:
                found = self._out.get(number)
                if found is not None and not found.arrived:
                    found.arrived, found.lost = True, False
                    self._since, count = now, count + 1
                    if not found.again:
                        sample = now - found.sent
        if sample is not None:
            self._measured(sample)
        if early:
            self._repair()
        if count:
            self._send_lost(2 * count)

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

    def _measured(self, sample: float) -> None:
        self._least_rtt = min(self._least_rtt, sample)
        if self.rtt is None:
            self.rtt, self._deviation = sample, sample / 2
            return
        self._deviation += (abs(sample - self.rtt) - self._deviation) / 4
        self.rtt += (sample - self.rtt) / 8

    # Receiving

    def arrives(self, segment: _Segment | None, upto: int, early: frozenset[int] | None) -> None:
        """A packet has come: payload, how much of ours the other end has, and what of it that came early."""
        if self.closed:
            return
        now = self._clock.now
        self.heard = now
        if self._out:
            self._acknowledged(upto, early)
        if segment is None:
            return
        self._data_at = now
        if segment.number != self._expected:
            if segment.number > self._expected:
                self._early[segment.number] = segment
            self._acknowledge()
            return
        self._owed += segment.size
        at_once = bool(self._early) or not self.interactive or self._owed > SEGMENT
        whole = self._take(segment)
        if at_once:
            self._acknowledge()
        elif self._owed_since is None:
            self._owed_since = now
            self._wake(now + _DELAYED)
        for deliver in whole:
            deliver()

    def _take(self, segment: _Segment) -> list[Deliver]:
        """It is the next one, and others may be that have come before; what is whole now."""
        whole: list[Deliver] = []
        following: _Segment | None = segment
        while following is not None:
            if following.deliver is not None:
                whole.append(following.deliver)
            self._expected += 1
            following = self._early.pop(self._expected, None)
        return whole

    def _acknowledge(self) -> None:
        self._owed_since, self._owed = None, 0
        self._packet(HEADERS + (_SACK if self._early else 0), None)

    def _wake(self, due: float) -> None:
        if due < self._wakes:
            self._wakes = due
            self._clock.at(due - self._clock.now, partial(self._waits_no_more, due))

    def _waits_no_more(self, due: float) -> None:
        """Nothing came that an acknowledgement could ride on: this end does not answer."""
        if due != self._wakes:
            return
        self._wakes = inf
        if self._owed_since is None or self.closed:
            return
        at = self._owed_since + _DELAYED
        if self._clock.now < at:
            self._wake(at)
            return
        self.interactive = False
        self._acknowledge()


def connection(clock: SimulatedClock, up: Way, down: Way) -> tuple[End, End]:
    """The two ends of a connection: that of the device, and that of the broker."""
    device, broker = End(clock, up), End(clock, down)
    device.peer, broker.peer = broker, device
    return device, broker
