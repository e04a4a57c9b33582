"""The real meter of this device, if it has one, and the powers that its readings tell: idle, and what drafting adds."""

from __future__ import annotations

from math import exp
from pathlib import Path

from flexspec_mq.energy.battery import POWER_SUPPLY, Batteries
from flexspec_mq.energy.rapl import POWERCAP, Rapl
from flexspec_mq.errors import UsageError

Meter = Rapl | Batteries
"""Measures the processors, or the whole device, by joules drawn since some moment; None while it cannot tell."""


def find_meter(powercap: Path = POWERCAP, power_supply: Path = POWER_SUPPLY) -> Meter:
    """The processors' counters where they may be read, for they are fine and never charged; else the batteries.

    Args:
        powercap: folder of the counters.
        power_supply: folder of the batteries.

    Raises:
        UsageError: there is neither; says why.
    """
    try:
        return Rapl(powercap)
    except UsageError as error:
        batteries = Batteries(power_supply)
        if batteries:
            return batteries
        hint = error.hint or "name a preset to have it modelled, or 'none'"
        raise UsageError(
            f"no energy can be measured: {error.message}, and no battery in {power_supply} tells its charge",
            hint=hint,
        ) from None


_MEMORY = 600.0
"""Seconds after which a reading counts for little (1/e)."""
_PRIOR = 0.1
"""Square seconds that the first guess weighs: that a drafter doubles what the device draws."""


class DrawFit:
    """Two powers by least squares over intervals, in watts.

    As long as nothing was drafted the readings do not tell what drafting adds. Then it is taken for as much as the
    device draws without.
    """

    def __init__(self) -> None:
        self._tt = self._td = self._dd = self._tj = self._dj = 0.0

    def saw(self, seconds: float, drafting_s: float, joules: float) -> None:
        """Over so many seconds, in so many of which the drafter was busy, so much was drawn."""
        keeps = exp(-seconds / _MEMORY)
        self._tt = keeps * self._tt + seconds * seconds
        self._td = keeps * self._td + seconds * drafting_s
        self._dd = keeps * self._dd + drafting_s * drafting_s
        self._tj = keeps * self._tj + seconds * joules
        self._dj = keeps * self._dj + drafting_s * joules

    @property
    def watts(self) -> tuple[float, float] | None:
        """While nothing is drafted, and what a busy drafter adds; None before a reading."""
        if not self._tt or not self._tj:
            return None
        tt, td, dd = self._tt + _PRIOR, self._td - _PRIOR, self._dd + _PRIOR
        determinant = tt * dd - td * td
        idle = (self._tj * dd - self._dj * td) / determinant
        drafting = (self._dj * tt - self._tj * td) / determinant
        return max(0.0, idle), max(0.0, drafting)
