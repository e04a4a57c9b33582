"""Percentile intervals by the bootstrap (B. Efron, 1979): questions are drawn again, with what belongs to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic of all units, and the percentile interval around it."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies in the interval."""
        return self.low <= 0.0 <= self.high

    def scaled(self, factor: float) -> list[float]:
        """Value and ends times a positive factor, as the JSON line gives them."""
        return [factor * self.value, factor * self.low, factor * self.high]

    def text(self, factor: float = 1.0, digits: int = 2) -> str:
        """For a table."""
        value, low, high = self.scaled(factor)
        return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


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
    times = rng.multinomial(units, np.full(units, 1.0 / units), size=DRAWS).astype(np.float64)
    return _interval(float(statistic(sums.sum(0, keepdims=True))[0]), statistic(times @ sums))


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
    chosen = np.random.default_rng(seed).integers(0, len(units), (DRAWS, len(units)))
    return _interval(float(statistic(units[None])[0]), statistic(units[chosen]))


def _interval(value: float, drawn: Floats) -> Interval:
    outside = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(drawn, [outside, 1.0 - outside])
    return Interval(value, float(low), float(high))
