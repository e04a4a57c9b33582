"""A TCP connection over an impaired link, in simulated time: what Linux does with small writes and lost packets.

Each write is a segment of its own, as Nagle's algorithm is off, or several where it is longer than one. Segments that
are lost come again: at once where the other end has what was sent later (RACK's rule), after two round trips where
more than one is out and nothing comes back (a tail loss probe), else after the retransmission timeout, which doubles.
An end that answers soon is interactive: its acknowledgement of one segment rides on what it sends, for 40 ms at most;
of two, and at another end, it goes at once. There is no congestion window: sessions send a few kilobytes at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

from flexspec_mq.transport.sockets import RETRY_MS
from lab.simulator.channel.sending import LAST_RTO, Deliver, Packet, Segment, Sending
from lab.simulator.channel.way import Way
from lab.simulator.clock import SimulatedClock
from lab.testbed.link.impairment import SEGMENT

HEADERS = 52
"""Bytes of IP and TCP before the payload, time stamps included."""
_SACK = 12
"""Bytes of an acknowledgement that tells of a hole."""
_DELAYED = 0.04
"""Seconds that an acknowledgement waits for something to ride on."""


class End:
    """An end of a connection.

    Args:
        clock: clock of the simulation.
        way: way that its packets take.
        last_rto: seconds between two attempts to send what is not acknowledged, at most.
        connects: whether it asks for the connection.

    Attributes:
        peer: the other end; set before anything is sent.
        interactive: whether it answers what it gets.
        heard: when something came last.
        on_data: called before bytes that came are handed on.
    """

    peer: End

    def __init__(self, clock: SimulatedClock, way: Way, last_rto: float, *, connects: bool) -> None:
        self.interactive = False
        self.heard = clock.now
        self.on_data: Callable[[], None] | None = None
        self._clock = clock
        self._way = way
        self._sending = Sending(clock, self._transmit, last_rto, connects=connects)
        self._expected = 0
        self._early: dict[int, Segment] = {}
        self._echo = -inf
        self._data_at = -inf
        self._owed_since: float | None = None
        self._wakes = inf

    @property
    def rtt(self) -> float | None:
        """Smoothed round trip in seconds; None before a sample."""
        return self._sending.rtt

    def close(self) -> None:
        """Send and take nothing any more."""
        self._sending.closed = True

    def send(self, size: int, deliver: Deliver) -> None:
        """Write so many bytes; `deliver` is called when they are there.

        Does nothing once the connection is closed.
        """
        if self._sending.closed:
            return
        if self._clock.now - self._data_at < _DELAYED:
            self.interactive = True
        whole, rest = divmod(size, SEGMENT)
        self._sending.send([SEGMENT] * whole + ([rest] if rest else []), deliver)

    def _transmit(self, segment: Segment) -> None:
        self._owed_since = None
        self._packet(HEADERS + segment.size, segment)

    def _packet(self, size: int, segment: Segment | None) -> None:
        """Send a packet, which acknowledges all that has come."""
        delay = self._way.carry(size)
        if delay is not None:
            early = frozenset(self._early) if self._early else None
            packet = Packet(segment, self._clock.now, self._expected, early, self._echo)
            self._clock.at(delay, partial(self.peer.arrives, packet))

    def arrives(self, packet: Packet) -> None:
        """A packet has come."""
        if self._sending.closed:
            return
        self.heard = self._clock.now
        self._sending.acknowledged(packet)
        if packet.segment is not None:
            self._take(packet.segment, packet.stamp)

    def _take(self, segment: Segment, stamp: float) -> None:
        now = self._clock.now
        self._data_at = now
        if segment.number != self._expected:
            if segment.number > self._expected:
                self._early[segment.number] = segment
            self._acknowledge()
            return
        # A second segment ends the waiting, whether it is full or not: each was written to be read at once.
        at_once = bool(self._early) or not self.interactive or self._owed_since is not None
        self._echo = stamp
        whole = self._in_order(segment)
        if self.on_data is not None:
            self.on_data()
        if at_once:
            self._acknowledge()
        else:
            self._owed_since = now
            self._wake(now + _DELAYED)
        for deliver in whole:
            deliver()

    def _in_order(self, segment: Segment) -> list[Deliver]:
        """It is the next one, and others may be that have come before; what is whole now."""
        whole: list[Deliver] = []
        following: Segment | None = segment
        while following is not None:
            if following.deliver is not None:
                whole.append(following.deliver)
            self._expected += 1
            following = self._early.pop(self._expected, None)
        return whole

    def _acknowledge(self) -> None:
        self._owed_since = None
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
        if self._owed_since is None or self._sending.closed:
            return
        at = self._owed_since + _DELAYED
        if self._clock.now < at:
            self._wake(at)
            return
        self.interactive = False
        self._acknowledge()


def connection(clock: SimulatedClock, up: Way, down: Way) -> tuple[End, End]:
    """The two ends of a connection: that of the device, which tries often, and that of the broker."""
    device = End(clock, up, RETRY_MS / 1000, connects=True)
    broker = End(clock, down, LAST_RTO, connects=False)
    device.peer, broker.peer = broker, device
    return device, broker
