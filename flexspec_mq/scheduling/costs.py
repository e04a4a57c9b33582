"""Time of a forward by what it carries: ridge regression over the newest, towards what is usual where they are alike.

Pure: it is told milliseconds, and measures nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
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
_USUAL = 0.03, 0.01, 0.008
"""Usual cost of a session, a drafted token and a token of a prompt, as shares of a mean forward of the target."""
_FRESH = 256
"""Forwards after which the time of a number of sessions is forgotten."""
_STALL = 4.0
"""A forward that takes so many times what it should was stopped by something else: it counts for no more."""
PRIMES = 8
"""Forwards that one counts for which was timed before any text."""
LEARN = 1 / 16
"""Weight of the newest value in a running mean."""


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
        self._line: npt.NDArray[np.float64] = np.zeros(size)

    @property
    def known(self) -> bool:
        """Whether any forward was seen."""
        return bool(self._squares[0, 0])

    def observe(self, counts: Sequence[float], ms: float) -> None:
        """Take the time of a forward that carried these counts."""
        x = np.array([1.0, *counts])
        self._squares = _FORGET * self._squares + np.outer(x, x)
        self._products = _FORGET * self._products + ms * x
        usual = np.array([0.0, *(self._usual * self._products[0] / self._squares[0, 0])])
        trust = np.diag(_TRUST * np.diag(self._squares) + _LITTLE * self._squares[0, 0])
        trust[0, 0] = 0.0
        self._line = np.linalg.solve(self._squares + trust, self._products + trust @ usual)

    def fade(self) -> None:
        """Nothing was tried, as it seemed too dear: what is known gets less sure and slowly cheaper, till it is."""
        self._squares *= _FORGET
        self._products *= _FORGET * _CHEAPER
        self._line *= _CHEAPER

    def each(self, count: int) -> float:
        """Milliseconds of one more unit of the count at this index; 0 before any forward."""
        return max(0.0, float(self._line[1 + count]))

    def predict(self, counts: Sequence[float]) -> float:
        """Milliseconds of a forward that carries so much, never below 0; 0 before any."""
        return max(0.0, float(self._line @ np.array([1.0, *counts])))


class ForwardCost:
    """Milliseconds of the target's forwards, by sessions that they decide, drafted tokens and tokens of prompts.

    Forwards without prompts are kept by their number of sessions as well: a line through all of them is wrong where it
    matters, as kernels take tokens in blocks.
    """

    def __init__(self) -> None:
        self._line = LinearCost(_USUAL)
        self._ms: dict[int, tuple[float, int]] = {}  # by sessions: mean, number of the newest forward
        self._forwards = 0

    def prime(self, forwards: Iterable[tuple[int, int, float]]) -> None:
        """Begin with forwards that were timed before any text: sessions, drafted tokens and ms, see `Timings`.

        A token of a prompt is taken to cost what a drafted one does, until one was read.
        """
        for sessions, drafted, ms in forwards:
            for _ in range(PRIMES):
                self.observe(sessions, drafted, 0, ms)
                if drafted:
                    self.observe(sessions, 0, drafted, ms)

    def observe(self, sessions: int, drafted: int, prompt: int, ms: float) -> None:
        """Take the time of a forward that decided sessions, verified their drafts and read tokens of prompts."""
        counts = sessions, drafted, prompt
        ms = min(ms, _STALL * self._line.predict(counts) or ms)
        self._line.observe(counts, ms)
        self._forwards += 1
        if sessions and not prompt:
            plain = max(0.0, ms - drafted * self.slot)
            mean, _ = self._ms.get(sessions, (plain, 0))
            self._ms[sessions] = mean + 2 * LEARN * (plain - mean), self._forwards

    @property
    def slot(self) -> float:
        """Milliseconds of one more slot for a drafted token; 0 before any forward."""
        return self._line.each(1)

    @property
    def prompt_token(self) -> float:
        """Milliseconds of one more token of a prompt; 0 before any forward."""
        return self._line.each(2)

    def predict(self, sessions: int, drafted: int = 0) -> float:
        """Milliseconds of a forward that reads no prompt; 0 before any forward."""
        return self._line.predict((sessions, drafted, 0))

    def takes(self, sessions: int) -> float:
        """Milliseconds of a forward that decides so many sessions, as measured; 0 before any forward.

        Measurements count for some hundred forwards, and a session more than were measured costs what the line says.
        """
        fresh = self._forwards - _FRESH
        known = [number for number, (_, newest) in self._ms.items() if number <= sessions and newest > fresh]
        if not known:
            return self.predict(sessions)
        nearest = max(known)
        return self._ms[nearest][0] + (sessions - nearest) * self._line.each(0)
