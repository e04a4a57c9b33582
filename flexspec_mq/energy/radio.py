"""Energy of a radio that is awake for given packets. Pure: it is told times, and reads no clock.

A modem that sleeps is woken by a packet (promotion). It listens without a pause for a moment after each packet, then
keeps its connection for a while in case another comes (the tail), and sleeps again. Wireless networks and cables are
the same machine with other figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioPower:
    """A kind of radio. Powers are what it adds to the device, in watts; times are seconds.

    Attributes:
        idle_w: while it sleeps, and beneath all others.
        promotion_s, promotion_w: from sleep to the first packet.
        hold_s, active_w: awake without a pause after each packet.
        tail_s, tail_w: from a packet until it sleeps, `hold_s` included; the power after `hold_s`.
        up_j, down_j: joules that a byte of IP adds.
    """

    idle_w: float = 0.0
    promotion_s: float = 0.0
    promotion_w: float = 0.0
    hold_s: float = 0.0
    active_w: float = 0.0
    tail_s: float = 0.0
    tail_w: float = 0.0
    up_j: float = 0.0
    down_j: float = 0.0

    @property
    def awake_s(self) -> float:
        """From a packet until it sleeps, if no other comes."""
        return max(self.hold_s, self.tail_s)

    @property
    def waking(self) -> float:
        """Joules of a promotion."""
        return self.promotion_w * self.promotion_s

    def after_packet(self, gap: float) -> float:
        """Joules of the `gap` seconds after a packet, in which no other comes; infinite is allowed."""
        active = min(gap, self.hold_s)
        return self.active_w * active + self.tail_w * (min(gap, self.awake_s) - active)

    def between_packets(self, gap: float) -> float:
        """The same, with the promotion for the packet that ends the gap if it sleeps by then."""
        return self.after_packet(gap) + (self.waking if gap >= self.awake_s else 0.0)


class Modem:
    """A radio that starts asleep and is told of packets, either way."""

    def __init__(self, power: RadioPower) -> None:
        self._power = power
        self._done = 0.0
        self._last: float | None = None

    def packet(self, now: float) -> None:
        """Let a packet pass now, on a clock that does not go back; during a promotion it waits for its end."""
        power, last = self._power, self._last
        if last is None or now >= last + power.awake_s:
            self._done += power.waking + (0.0 if last is None else power.after_packet(inf))
            self._last = now + power.promotion_s
        elif now > last:
            self._done += power.after_packet(now - last)
            self._last = now

    @property
    def joules(self) -> float:
        """Joules for the packets so far without the bytes they carry, the whole tail of the last one included."""
        return self._done if self._last is None else self._done + self._power.after_packet(inf)
