"""What a token takes with chains and leaves: one session, by the prices of a step and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexspec_mq.errors import UsageError
from lab.bench.figures.bootstrap import Floats
from lab.benchmarks.leaves.compared import Rates


@dataclass(frozen=True, slots=True)
class StepPrice:
    """Of a worker's step, in milliseconds.

    Attributes:
        steps: pairs of rows and what a step with so many takes, ascending; between two it is interpolated, and beyond
            the last each row costs what it did before.
        leaf: what a leaf costs beyond its row, for attention of its own.
        again: what a right leaf costs in the next step: a row, if it is read again, or a copy of its keys and values.
    """

    steps: tuple[tuple[int, float], ...]
    leaf: float = 0.0
    again: float = 0.0

    def of(self, rates: Rates) -> Floats:
        """Mean milliseconds of a step, [draws, lengths]."""
        extra = self.leaf * rates.leaves + self.again * rates.by_leaf
        found: Floats = rates.by_rows @ self.by_rows(rates.by_rows.shape[2]) + extra
        return found

    def by_rows(self, count: int) -> Floats:
        """Milliseconds of a step with 0, 1, 2, … rows, [count]."""
        rows, took = (np.array(one, dtype=np.float64) for one in zip(*self.steps, strict=True))
        every = np.arange(count, dtype=np.float64)
        slope = (took[-1] - took[-2]) / (rows[-1] - rows[-2]) if len(rows) > 1 else 0.0
        found: Floats = np.interp(every, rows, took) + slope * np.maximum(0.0, every - rows[-1])
        return found


def read_step(text: str) -> tuple[int, float]:
    """A point of `StepPrice.steps` from ``ROWS:MS``.

    Raises:
        UsageError: it is none.
    """
    try:
        rows, took = text.split(":")
        found = int(rows), float(took)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or not 0 < found[1] < np.inf:
        raise UsageError(f"{text!r} is no number of rows and milliseconds", hint="for example 5:46.3")
    return found


def ascending(steps: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The same by rows; of two with as many rows the last."""
    return tuple(sorted(dict(steps).items()))


@dataclass(frozen=True, slots=True)
class Place:
    """Who drafts, and what lies between two steps.

    Attributes:
        name: for people.
        draft: milliseconds of a drafted token.
        trip: milliseconds from the end of a step to the edge and back, what the edge does besides drafting included.
        load: milliseconds on top of each step, as of a larger target.
    """

    name: str
    draft: float
    trip: float = 0.0
    load: float = 0.0


def token_ms(rates: Rates, step: Floats, place: Place) -> Floats:
    """Milliseconds of a token: draft, send, verify, tell, one after another.

    Args:
        rates: of the rounds.
        step: milliseconds of one without `load`, [draws, lengths]; see `StepPrice.of`.
        place: who drafts.

    Returns:
        [draws, lengths].
    """
    return (step + place.load + place.trip + place.draft * rates.drafted) / rates.tokens
