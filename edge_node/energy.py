"""What each text takes out of the device: modelled from what is counted, or measured."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flexspec_mq.energy.meters import find_meter
from flexspec_mq.energy.model import Counts, DevicePower, energy
from flexspec_mq.energy.presets import built_in
from flexspec_mq.energy.radio import Modem, RadioPower
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from edge_node.settings import EdgeSettings
    from flexspec_mq.energy.meters import Meter

_OVERHEAD_UP, _OVERHEAD_DOWN = 249, 238
"""IP bytes beyond a message's payload at QoS 1, acknowledgements included: ``python -m benchmarks.transport``."""
_FRESH = 0.1
"""Seconds for which a reading is good enough: a battery's gauge may take milliseconds to answer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a text has taken, and how that is known.

    Attributes:
        joules: None where nothing can be said.
        source: ``modelled: PRESET by RADIO``, ``measured: METER``, or ``none``.
    """

    joules: float | None = None
    source: str = "none"


class TextEnergy(Protocol):
    """Told what one text does; times are of a clock that does not go back."""

    def sent(self, size: int, now: float) -> None:
        """A message with so many bytes of payload goes out."""

    def received(self, size: int, now: float) -> None:
        """One has come."""

    def drafted(self, seconds: float) -> None:
        """Its drafts have kept the drafter busy for so long."""

    def spent(self, now: float) -> Spent:
        """Until now; where it is modelled, with the tail that the last packet leaves."""


class EnergyMeter(Protocol):
    """Of a device."""

    def text(self, now: float) -> TextEnergy:
        """A text begins."""


class ModelledEnergy:
    """By a preset. Each text is counted as if it were alone on the device.

    Args:
        source: names the preset.
        device: what it draws.
        radio: what carries the messages.
        cores: that a drafter keeps busy.
    """

    def __init__(self, source: str, device: DevicePower, radio: RadioPower, cores: int) -> None:
        self.source = source
        self.device = device
        self.radio = radio
        self.cores = cores

    def text(self, now: float) -> TextEnergy:
        """A text begins."""
        return _ModelledText(self, now)


class _ModelledText:
    def __init__(self, by: ModelledEnergy, now: float) -> None:
        self._by = by
        self._began = now
        self._modem = Modem(by.radio)
        self._drafting = 0.0
        self._up = 0
        self._down = 0

    def sent(self, size: int, now: float) -> None:
        self._up += size + _OVERHEAD_UP
        self._modem.packet(now)

    def received(self, size: int, now: float) -> None:
        self._down += size + _OVERHEAD_DOWN
        self._modem.packet(now)

    def drafted(self, seconds: float) -> None:
        self._drafting += seconds

    def spent(self, now: float) -> Spent:
        counts = Counts(
            seconds=now - self._began,
            drafting_s=self._by.cores * self._drafting,
            radio=self._modem.activity(),
            bytes_up=self._up,
            bytes_down=self._down,
        )
        return Spent(energy(self._by.device, self._by.radio, counts).total_j, self._by.source)


class MeasuredEnergy:
    """By a real meter: all that the device draws while a text is written, whatever draws it."""

    def __init__(self, meter: Meter) -> None:
        self.source = f"measured: {meter.name}"
        self._meter = meter
        self._at: float | None = None
        self._joules: float | None = None

    def text(self, now: float) -> TextEnergy:
        """A text begins."""
        return _MeasuredText(self, now)

    def joules(self, now: float) -> float | None:
        """A reading that is fresh enough; None where the meter cannot tell."""
        if self._at is None or now >= self._at + _FRESH:
            self._at = now
            try:
                self._joules = self._meter.joules()
            except UsageError as error:
                if self._joules is not None:
                    _log.warning("the energy of texts is not known any more: %s", error.message)
                self._joules = None
        return self._joules


class _MeasuredText:
    def __init__(self, by: MeasuredEnergy, now: float) -> None:
        self._by = by
        self._began = by.joules(now)

    def sent(self, size: int, now: float) -> None: ...

    def received(self, size: int, now: float) -> None: ...

    def drafted(self, seconds: float) -> None: ...

    def spent(self, now: float) -> Spent:
        joules = self._by.joules(now)
        if joules is None or self._began is None:
            return Spent(None, self._by.source)
        return Spent(joules - self._began, self._by.source)


def energy_meter(settings: EdgeSettings) -> EnergyMeter | None:
    """What the settings ask for; None if they want none.

    Raises:
        UsageError: energy is to be measured, and nothing here measures it.
    """
    if settings.energy == "none":
        return None
    if settings.energy == "measured":
        return MeasuredEnergy(find_meter())
    presets = built_in()
    device = presets.device(settings.energy)
    radio = settings.energy_radio or device.radio
    source = f"modelled: {settings.energy} by {radio}"
    return ModelledEnergy(source, device.power, presets.radio(radio).power, settings.threads)
