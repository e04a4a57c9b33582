"""Time of a forward, by what it carries: least squares over the newest, or what is usual where they are alike.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_FORGET = 0.97
"""Weight of all earlier forwards when one more is seen: about 33 count."""
_CHEAPER = 0.997
"""Factor of an estimate after a forward in which it was not tried: half of it is left after 230."""
_TRUST = 0.02
"""Weight of what is usual, as a share of the squares of a count that were seen."""
_LITTLE = 0.25
"""The same, as a share of what one unit in every forward would weigh: so what is no longer tried becomes usual again,
and one slow forward with a unit or two tells little."""
_NEWEST = 8
"""Forwards of one number of sessions that count."""
_FRESH = 256
"""Forwards after which the time of a number of sessions is forgotten."""
_LEAST = 0.05
"""No count costs less than this share of what is usual."""


class LinearCost:
    """Milliseconds of a forward as a line over counts: some in any case, and so many more for each unit of a count.

    Where the newest forwards hardly differ in a count, they do not tell what it costs; then it costs what is usual: a
    share of a mean forward, given for each count.
    """

    def __init__(self, usual: Sequence[float]) -> None:
        self._usual = np.array(usual)
        size = 1 + len(usual)
        self._squares: npt.NDArray[np.float64] = np.zeros((size, size))
        self._products: npt.NDArray[np.float64] = np.zeros(size)
        self._line: npt.NDArray[np.float64] | None = None
        self._mean = 0.0

    @property
    def known(self) -> bool:
        """Whether any forward was seen."""
        return self._line is not None

    def observe(self, counts: Sequence[float], ms: float) -> None:
        """A forward took so many ms that carried these counts."""
        x = np.array([1.0, *counts])
        self._squares = _FORGET * self._squares + np.outer(x, x)
        self._products = _FORGET * self._products + ms * x
        self._mean = float(self._products[0] / self._squares[0, 0])
        # Ridge regression towards what is usual, which weighs a share of what was seen.
        usual = np.array([0.0, *(self._usual * self._mean)])
        trust = np.diag(_TRUST * np.diag(self._squares) + _LITTLE * self._squares[0, 0])
        trust[0, 0] = 0.0
        self._line = np.linalg.solve(self._squares + trust, self._products + trust @ usual)

    def fade(self) -> None:
        """Nothing was tried, as it seemed too dear: what is known gets less sure and slowly cheaper, till it is."""
        if self._line is not None:
            self._squares *= _FORGET
            self._products *= _FORGET * _CHEAPER
            self._line *= _CHEAPER
            self._mean *= _CHEAPER

    def more(self, count: int) -> float:
        """Milliseconds of one more unit of the count at this index; 0 before any forward."""
        if self._line is None:
            return 0.0
        return max(float(self._line[1 + count]), _LEAST * float(self._usual[count]) * self._mean)

    def predict(self, counts: Sequence[float]) -> float:
        """Milliseconds of a forward that carries so much, never below 0; 0 before any."""
        if self._line is None:
            return 0.0
        return max(0.0, float(self._line @ np.array([1.0, *counts])))


class MeasuredCost:
    """Milliseconds of forwards by how many sessions they decide, as they were measured, one number at a time.

    A line through all of them is wrong where it matters: kernels take rows in blocks.
    """

    def __init__(self) -> None:
        self._ms: dict[int, tuple[float, int, int]] = {}  # mean, forwards, the newest one's number
        self._forwards = 0

    def observe(self, sessions: int, ms: float) -> None:
        """A forward is done."""
        self._forwards += 1
        mean, count, _ = self._ms.get(sessions, (0.0, 0, 0))
        count = min(count + 1, _NEWEST)
        self._ms[sessions] = mean + (ms - mean) / count, count, self._forwards

    def passed(self) -> None:
        """A forward is done that tells nothing; what is known is older by it."""
        self._forwards += 1

    def predict(self, sessions: int, each: float) -> float | None:
        """Milliseconds for so many sessions; None if no forward lately decided as many or fewer.

        A session more than were measured takes `each`.
        """
        known = [
            number
            for number, (_, _, newest) in self._ms.items()
            if number <= sessions and self._forwards - newest < _FRESH
        ]
        if not known:
            return None
        nearest = max(known)
        return self._ms[nearest][0] + (sessions - nearest) * each
