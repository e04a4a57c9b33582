"""How long a packet occupies the link: a rate that may change with the channel's state. Pure.

The link is a server with one place: packets pass one after the other, in the order of the calls.
"""

from collections.abc import Sequence

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
