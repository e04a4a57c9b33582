"""The real meter of this device, if it has one."""

from __future__ import annotations

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
