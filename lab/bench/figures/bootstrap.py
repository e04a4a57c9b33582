"""Percentile intervals by the bootstrap (B. Efron, 1979): questions are drawn again, with what belongs to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 4000
LEVEL = 0.95
FEWEST = 5
"""Units: fewer drawn again say little about others, and a single one is always itself, so they have no interval."""

Ends = list[float | None]
"""Value, low and high, as the JSON line gives them; None where there is no interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic of all units, and the percentile interval around it; from −∞ to ∞ of too few units."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies in the interval."""
        return self.low <= 0.0 <= self.high

    def scaled(self, factor: float) -> Ends:
        """Value and ends times a positive factor."""
        ends = [factor * end if math.isfinite(end) else None for end in (self.low, self.high)]
        return [factor * self.value, *ends]


def shown(ends: Sequence[float | None], form: str = "+.2f") -> str:
    """For a table.

    Args:
        ends: value, low and high.
        form: of each number.
    """
    value, *others = ("-" if end is None else format(end, form) for end in ends)
    return value if None in ends else f"{value} [{', '.join(others)}]"


def of_sums(sums: Floats, statistic: Callable[[Floats], Floats], *, seed: int) -> Interval:
    """Interval of a statistic of sums over units, such as a ratio of two of them.

    Args:
        sums: [units, columns]; what each unit adds to each sum.
        statistic: from [draws, columns] to [draws].
        seed: of the draws.

    Raises:
        ValueError: no units.
    """
    rng = np.random.default_rng(seed)
    units = len(sums)
    if not units:
        raise ValueError("an interval needs units")
    value = float(statistic(sums.sum(0, keepdims=True))[0])
    if units < FEWEST:
        return Interval(value, -math.inf, math.inf)
    times = rng.multinomial(units, np.full(units, 1.0 / units), size=DRAWS).astype(np.float64)
    return _interval(value, statistic(times @ sums))


def of_units(units: Floats, statistic: Callable[[Floats], Floats], *, seed: int) -> Interval:
    """Interval of a statistic that is no function of sums, such as a ratio of medians.

    Args:
        units: [units, columns].
        statistic: from [draws, units, columns] to [draws].
        seed: of the draws.

    Raises:
        ValueError: no units.
    """
    if not len(units):
        raise ValueError("an interval needs units")
    value = float(statistic(units[None])[0])
    if len(units) < FEWEST:
        return Interval(value, -math.inf, math.inf)
    chosen = np.random.default_rng(seed).integers(0, len(units), (DRAWS, len(units)))
    return _interval(value, statistic(units[chosen]))


def _interval(value: float, drawn: Floats) -> Interval:
    outside = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(drawn, [outside, 1.0 - outside])
    return Interval(value, float(low), float(high))
