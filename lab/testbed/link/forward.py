"""The loop between two TUN devices: reads packets, asks the impairment, writes them when they are due."""

import ctypes
import heapq
import os
import select
import time
from collections.abc import Callable

import msgspec

from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.profiles import MTU, LinkPlan

_BURST = 64
"""Packets read from one side before those that are due go out."""
_LONGEST_SLEEP = 1.0
_AWAKE = 80e-6
"""Seconds before a packet is due that are not slept: a sleeper wakes some 40 µs late, 3 % of a short delay."""
_PR_SET_TIMERSLACK = 29


class Forwarder:
    """Joins side a (the device) and side b (the cloud).

    The impairment bounds what waits: its queue in bytes, and what its delay keeps in flight at its rate.

    Args:
        plan: the link's; the channel's time `begins_s` is now.
        tun_a, tun_b: non-blocking files of the two devices; see `open_tun`.
    """

    def __init__(self, plan: LinkPlan, tun_a: int, tun_b: int) -> None:
        self._plan = plan
        self._ways = (Impairment(plan, "up"), Impairment(plan, "down"))
        self._from = (tun_a, tun_b)
        self._to = (tun_b, tun_a)
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._counters = LinkCounters(self._ways[0].counters, self._ways[1].counters)
        self._start = time.monotonic()
        self._zero = -plan.begins_s
        """When the channel's time was 0, in seconds since the start."""

    def seek(self, time: float) -> None:
        """Have the channel's time be `time` (seconds) from now on; its queues are empty.

        Packets on their way arrive when they were due.
        """
        plan = msgspec.structs.replace(self._plan, begins_s=time)
        counters = self._counters
        self._ways = Impairment(plan, "up", counters.up), Impairment(plan, "down", counters.down)
        self._zero = self._now() - time

    def run(self, control: int, command: Callable[[], bool]) -> None:
        """Forward until `command` says that it is enough.

        Args:
            control: a file; whenever it can be read, `command` is called.
            command: reads it, and returns whether to go on.
        """
        # Timers may otherwise be 50 µs late on purpose.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        watched = [*self._from, control]
        while True:
            wait = _LONGEST_SLEEP
            if self._flying:
                wait = min(wait, max(0.0, self._flying[0][0] - self._now() - _AWAKE))
            ready = select.select(watched, [], [], wait)[0]
            for side in (0, 1):
                if self._from[side] in ready:
                    self._read(side)
            self._write_due()
            if control in ready and not command():
                return

    def counters(self) -> LinkCounters:
        """As of now."""
        self._counters.seconds = self._now()
        return self._counters

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _read(self, side: int) -> None:
        way, source = self._ways[side], self._from[side]
        for _ in range(_BURST):
            try:
                packet = os.read(source, MTU + 100)
            except BlockingIOError:
                return
            due = way.arrive(self._now() - self._zero, len(packet))
            if not isinstance(due, Drop):
                self._number += 1
                heapq.heappush(self._flying, (self._zero + due, self._number, side, packet))

    def _write_due(self) -> None:
        flying = self._flying
        while flying and flying[0][0] <= (now := self._now()):
            due, _, side, packet = heapq.heappop(flying)
            try:
                os.write(self._to[side], packet)
            except OSError:  # somebody took that side's interface down
                self._ways[side].counters.in_outage += 1
                continue
            self._counters.went_out(self._ways[side].counters, len(packet), now - due)
