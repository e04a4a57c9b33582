"""Energy that each text takes out of the device: modelled from what is counted, or measured."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flexspec_mq.energy.meters import Batteries, DrawFit, find_meter
from flexspec_mq.energy.model import ModelledEnergy, ModelledText, Spent
from flexspec_mq.energy.presets import built_in
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from edge_node.settings import EdgeSettings

_FRESH = 0.1
"""Seconds for which a reading is good enough: a battery's gauge may take milliseconds to answer."""

_APART = 10.0
"""Seconds between two readings from which on the device did something else than write."""

_log = logging.getLogger(__name__)


class MeasuredEnergy:
    """By the battery: all that the device draws while a text is written, whatever draws it."""

    source = "measured: battery"

    def __init__(self, meter: Batteries) -> None:
        self._meter = meter
        self._at: float | None = None
        self._joules: float | None = None
        self._drafting = 0.0  # seconds since the newest reading, of all texts
        self._fit = DrawFit()

    def text(self, now: float) -> TextEnergy:
        """A text begins."""
        return _MeasuredText(self, now)

    def joules(self, now: float) -> float | None:
        """A reading that is fresh enough; None where the meter cannot tell."""
        if self._at is None or now >= self._at + _FRESH:
            at, before = self._at, self._joules
            self._at = now
            try:
                self._joules = self._meter.joules()
            except UsageError as error:
                if self._joules is not None:
                    _log.warning("the energy of texts is not known any more: %s", error.message)
                self._joules = None
            if at is not None and now - at < _APART and before is not None and self._joules is not None:
                self._fit.saw(now - at, self._drafting, self._joules - before)
            self._drafting = 0.0
        return self._joules

    def drafted(self, seconds: float) -> None:
        """Some text's drafts have kept the drafter busy for so long."""
        self._drafting += seconds

    def expected(self, *, seconds: float, drafting_s: float, **radio: float) -> float | None:  # noqa: ARG002
        """By what was drawn with and without drafts; a radio that the meter sees counts as idle."""
        watts = self._fit.watts
        return None if watts is None else watts[0] * seconds + watts[1] * drafting_s


class _MeasuredText:
    def __init__(self, by: MeasuredEnergy, now: float) -> None:
        self._by = by
        self._began = by.joules(now)

    def sent(self, size: int, now: float) -> None: ...

    def received(self, size: int, now: float) -> None: ...

    def drafted(self, seconds: float) -> None:
        self._by.drafted(seconds)

    def spent(self, now: float) -> Spent:
        joules = self._by.joules(now)
        if joules is None or self._began is None:
            return Spent(None, self._by.source)
        return Spent(joules - self._began, self._by.source)


EnergyMeter = MeasuredEnergy | ModelledEnergy
"""Makes the counts of texts, and tells what plans are expected to take."""
TextEnergy = _MeasuredText | ModelledText
"""Told what one text does; times are of a clock that does not go back."""


def energy_meter(settings: EdgeSettings) -> EnergyMeter | None:
    """The meter that the settings ask for; None if they want none.

    Raises:
        UsageError: energy is to be measured, and nothing here measures it.
    """
    if settings.energy == "none":
        return None
    if settings.energy == "measured":
        return MeasuredEnergy(find_meter())
    presets = built_in()
    device = presets.devices[settings.energy]
    radio = settings.energy_radio or device.radio
    source = f"modelled: {settings.energy} by {radio}"
    return ModelledEnergy(source, device.power, presets.radios[radio].power, settings.threads)
