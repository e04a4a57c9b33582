"""Energy of texts, modelled by what is counted. Pure: told times, it reads no clock; `presets.py` has the powers.

A modem that sleeps is woken by a packet (promotion). It listens without a pause for a moment after each packet, then
keeps its connection for a while in case another comes (the tail), and sleeps again. Wireless networks and cables are
the same machine with other figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

OVERHEAD_UP, OVERHEAD_DOWN = 249, 238
"""IP bytes beyond a message's payload at QoS 1, acknowledgements included: ``python -m lab.benchmarks.transport``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePower:
    """A device without its radio, in watts.

    Attributes:
        idle_w: power with nothing to do.
        core_w: power that one busy core adds.
    """

    idle_w: float
    core_w: float


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


def joules(
    device: DevicePower,
    radio: RadioPower,
    awake: float,
    *,
    seconds: float,
    core_s: float,
    bytes_up: float,
    bytes_down: float,
) -> float:
    """Energy of counted things, linear in each of them, so that texts add up.

    Args:
        device: powers of the device.
        radio: powers of the radio.
        awake: joules of the radio for being awake, in whole.
        seconds: time that a text took, in which device and sleeping radio draw in any case.
        core_s: seconds of a core that drafting kept busy; two cores for a second are two.
        bytes_up: bytes of IP.
        bytes_down: likewise.
    """
    idle = (device.idle_w + radio.idle_w) * seconds
    carried = radio.up_j * bytes_up + radio.down_j * bytes_down
    return idle + device.core_w * core_s + awake + carried


def per_hundred(spent: float, tokens: int) -> float | None:
    """Joules per 100 tokens; None without a token."""
    return 100 * spent / tokens if tokens else None


def in_words(spent: float, per_100: float | None, source: str) -> str:
    """Energy of a text, in a few words."""
    each = "" if per_100 is None else f", {per_100:.1f} J for 100 tokens"
    return f"{spent:.1f} J{each} ({source})"


@dataclass(frozen=True, slots=True)
class Spent:
    """Energy that a text has taken, and how that is known.

    Attributes:
        joules: None where nothing can be said.
        source: ``modelled: PRESET by RADIO``, ``measured: METER``, or ``none``.
    """

    joules: float | None = None
    source: str = "none"


@dataclass(frozen=True, slots=True)
class ModelledEnergy:
    """By a preset. Each text is counted as if it were alone on the device.

    Attributes:
        source: names the preset.
        device: the device's powers.
        radio: powers of what carries the messages.
        cores: number of cores that a drafter keeps busy.
    """

    source: str
    device: DevicePower
    radio: RadioPower
    cores: int

    def text(self, now: float) -> ModelledText:
        """A text begins."""
        return ModelledText(self, now)

    def expected(
        self, *, seconds: float, drafting_s: float, messages: float, bytes_up: float, bytes_down: float
    ) -> float:
        """Joules of a token of a long text that is written with such means for each of its tokens.

        Args:
            seconds: time from one token to the next.
            drafting_s: seconds that the drafter is busy.
            messages: messages both ways.
            bytes_up: bytes of IP.
            bytes_down: likewise.
        """
        messages = max(messages, 0.001)
        return joules(
            self.device,
            self.radio,
            messages * self.radio.between_packets(seconds / messages),
            seconds=seconds,
            core_s=self.cores * drafting_s,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
        )


class ModelledText:
    """A text that is being counted.

    Args:
        by: models it.
        now: when it begins, on a clock that does not go back.
    """

    def __init__(self, by: ModelledEnergy, now: float) -> None:
        self._by = by
        self._began = now
        self._modem = Modem(by.radio)
        self._drafting = 0.0
        self._up = 0
        self._down = 0

    def sent(self, size: int, now: float) -> None:
        """A message with so many bytes of payload goes out."""
        self._up += size + OVERHEAD_UP
        self._modem.packet(now)

    def received(self, size: int, now: float) -> None:
        """Count a message that has come."""
        self._down += size + OVERHEAD_DOWN
        self._modem.packet(now)

    def drafted(self, seconds: float) -> None:
        """Its drafts have kept the drafter busy for so long."""
        self._drafting += seconds

    def spent(self, now: float) -> Spent:
        """Until now, with the tail that the last packet leaves."""
        by = self._by
        spent = joules(
            by.device,
            by.radio,
            self._modem.joules,
            seconds=now - self._began,
            core_s=by.cores * self._drafting,
            bytes_up=self._up,
            bytes_down=self._down,
        )
        return Spent(spent, by.source)
