"""Energy of a text, modelled as it is counted. It is told times, and reads no clock."""

from __future__ import annotations

from dataclasses import dataclass

from flexspec_mq.energy.model import DevicePower, joules
from flexspec_mq.energy.radio import Modem, RadioPower

OVERHEAD_UP, OVERHEAD_DOWN = 249, 238
"""IP bytes beyond a message's payload at QoS 1, acknowledgements included: ``python -m lab.benchmarks.transport``."""


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
