"""How long a packet occupies the link: a rate that may change with the channel's state, or a trace. Pure.

Either is a server with one place: packets pass one after the other, in the order of the calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from lab.testbed.link.profiles import MTU
from lab.testbed.link.timeline import States


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


class TraceRate:
    """Opportunities of 1,500 bytes at given times, over and over. An opportunity that nobody waits for is lost.

    Small packets share an opportunity, large ones take several, as in mahimahi.

    Args:
        milliseconds: not falling; the last one is the period and above 0.
    """

    def __init__(self, milliseconds: Sequence[int]) -> None:
        if not milliseconds or milliseconds[-1] <= 0:
            raise ValueError("a trace needs an opportunity after 0 ms")
        self._times = (
            milliseconds  # as they are: a recording has hundreds of thousands, and links are set often
        )
        self._index = -1
        self._left = 0

    def transmit(self, ready: float, size: int) -> tuple[float, float]:
        """See `StateRate`. Start and end are those of the first and the last opportunity taken."""
        if not self._left or self._time(self._index) < ready:
            self._index = max(self._index + 1, self._first_from(ready))
            self._left = MTU
        start = self._time(self._index)
        while size > self._left:
            size -= self._left
            self._index += 1
            self._left = MTU
        self._left -= size
        return start, self._time(self._index)

    def _time(self, index: int) -> float:
        """Seconds; never falls as `index` grows, since it is one division of whole milliseconds."""
        rounds, place = divmod(index, len(self._times))
        return (rounds * self._times[-1] + self._times[place]) / 1000

    def _first_from(self, ready: float) -> int:
        """Index of the first opportunity at or after `ready`."""
        first = max(0, int(ready * 1000 / self._times[-1]) - 1) * len(self._times)
        return bisect_left(range(first + 3 * len(self._times)), ready, lo=first, key=self._time)
