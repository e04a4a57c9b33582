"""Percentile intervals by the bootstrap over questions, which are drawn again with all that belongs to each."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ends = list[float | None]
"""Value, low and high; None where there is no interval."""
DRAWS = 4000
FEWEST = 5
"""Units below which there is no interval: few ones drawn again say little about others."""


def of_units(units: Floats, statistic: Callable[[Floats], Floats], *, seed: int) -> Ends:
    """Interval of a statistic over units, at 95 %.

    Args:
        units: [units, columns].
        statistic: from [..., units, columns] to [...].
        seed: seed of the draws.

    Raises:
        ValueError: no units.
    """
    if not len(units):
        raise ValueError("an interval needs units")
    value = float(statistic(units))
    if len(units) < FEWEST:
        return [value, None, None]

    def over_columns(*columns: Floats, axis: int) -> Floats:
        del axis  # the last one
        return statistic(np.stack(columns, axis=-1))

    found: Any = stats.bootstrap(
        tuple(units.T), over_columns, n_resamples=DRAWS, vectorized=True, paired=True, method="percentile",
        batch=200, rng=seed,
    )  # fmt: skip
    low, high = found.confidence_interval
    return [value, float(low), float(high)]


def of_sums(units: Floats, statistic: Callable[[Floats], Floats], *, seed: int) -> Ends:
    """Interval of a statistic of sums over units, such as a ratio of two of them.

    Args:
        units: [units, columns]; what each unit adds to each sum.
        statistic: from [..., columns] to [...].
        seed: seed of the draws.

    Raises:
        ValueError: no units.
    """
    return of_units(units, lambda drawn: statistic(drawn.sum(axis=-2)), seed=seed)


def shown(ends: Sequence[float | None], form: str = ".3f") -> str:
    """An interval for a table, each number in a form."""
    value, *others = ("-" if end is None else format(end, form) for end in ends)
    return value if None in ends else f"{value} [{', '.join(others)}]"
