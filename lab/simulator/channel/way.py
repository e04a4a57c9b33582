"""The ways of a device's link in simulated time."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from lab.simulator.clock import SimulatedClock
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.profiles import LinkPlan


@dataclass(slots=True)
class WayUse:
    """Traffic over one way.

    Attributes:
        bytes: bytes of IP that were put on the link, lost ones included.
        packets: likewise.
        lost: packets that did not arrive.
        air: seconds that they took at the link's rate.
    """

    bytes: int = 0
    packets: int = 0
    lost: int = 0
    air: float = 0.0


class Way:
    """A way of a link.

    Args:
        clock: clock of the simulation.

    Attributes:
        use: since it was reset; replace it to begin anew.
    """

    def __init__(self, clock: SimulatedClock) -> None:
        self.use = WayUse()
        self._clock = clock
        self._impairment: Impairment | None = None
        self._zero = 0.0

    def set(self, impairment: Impairment | None, time: float) -> None:
        """Set what packets meet from now on, and the channel's time; what is on its way arrives when it was due.

        Args:
            impairment: None delays and loses nothing.
            time: seconds of the channel.
        """
        self._impairment = impairment
        self._zero = self._clock.now - time

    def carry(self, size: int) -> float | None:
        """Send a packet of so many bytes; seconds until it is there, or None if it never is."""
        now, use, impairment = self._clock.now, self.use, self._impairment
        use.bytes += size
        use.packets += 1
        delay = 0.0
        if impairment is not None:
            time = now - self._zero
            use.air += 8 * size / impairment.rate(time)
            out = impairment.arrive(time, size)
            if isinstance(out, Drop):
                use.lost += 1
                return None
            delay = out - time
        return delay


class Ways:
    """Both ways of a link.

    Args:
        clock: clock of the simulation.
        plan: plan of the link; None is loopback.

    Attributes:
        up, down: they.
    """

    def __init__(self, clock: SimulatedClock, plan: LinkPlan | None) -> None:
        self.up, self.down = Way(clock), Way(clock)
        self._plan = plan
        self.seek(0.0 if plan is None else plan.begins_s)

    def seek(self, time: float) -> None:
        """Have the channel's time be `time` (seconds) from now on, as `NetnsLink.seek` does."""
        if self._plan is None:
            return
        plan = msgspec.structs.replace(self._plan, begins_s=time)
        self.up.set(Impairment(plan, "up"), time)
        self.down.set(Impairment(plan, "down"), time)

    def begin(self) -> None:
        """Count anew."""
        self.up.use, self.down.use = WayUse(), WayUse()
