"""Cost of one drafted token more in a forward of the worker, as far as an edge can tell from verdicts."""

from __future__ import annotations

from math import exp, sqrt

_USUAL = 0.01, 0.02
"""Usual cost of a row, and how far it may be off, as shares of a forward."""
_NOISE = 0.1
"""How far forwards differ otherwise, as a share of one, before a few were seen."""
_ROUNDING = 0.001**2 / 12
"""Variance of times that are told in whole milliseconds."""
_FORGET = 0.93
"""Weight of earlier forwards when one more has other rows than those before it: about fourteen count."""
_LIFE = 300.0
"""Seconds in which what is known fades to 1/e."""
_SILENCE = 30.0
"""Seconds after which a forward is not compared with those before it: the worker may do something else by now."""
_LOCAL = 0.25
"""Weight of the newest forward in what it is compared with."""
_CLIP = 6.0
"""Standard deviations that a forward may be off; what is more is some other work of the worker's."""


class RowCost:
    """Least squares over how forwards differ from those just before them, and what is usual where none differ.

    Differences, so that a worker that gets slower or busier as a whole does not count as a dearer row. The worker's
    other sessions have rows in the same forwards, of which an edge knows nothing: they are noise here.

    Attributes:
        seconds: time of one row more, at least 0; None before a forward.
        error: standard error, or as far as a usual one may be off where that is less.
    """

    __slots__ = (
        "_at",
        "_count",
        "_products",
        "_rest",
        "_rows",
        "_squares",
        "_time",
        "_variance",
        "error",
        "seconds",
    )

    def __init__(self) -> None:
        self._at = 0.0
        self._rows = self._time = 0.0  # of the forwards just before
        self._squares = self._products = self._rest = self._count = 0.0
        self._variance = 0.0  # of forwards with equal rows
        self.seconds: float | None = None
        self.error: float | None = None

    def update(self, rows: float, seconds: float, now: float) -> None:
        """A forward that verified so many drafted tokens of ours took so long."""
        passed, self._at = now - self._at, now
        keep = exp(-passed / _LIFE) if passed > 0.0 else 1.0
        if self.seconds is None or passed > _SILENCE:
            self._rows, self._time = rows, seconds
            self._fade(keep)
        else:
            more, longer = rows - self._rows, seconds - self._time
            self._rows += more * _LOCAL
            self._time += longer * _LOCAL
            if abs(more) > 0.5:
                self._differs(more, longer, self.seconds, _FORGET * keep)
        usual, width = _USUAL[0] * self._time, max(_USUAL[1] * self._time, 1e-9)
        noise, trust = _NOISE * self._time, 1 / (width * width)
        self._variance = (self._rest + noise * noise) / (self._count + 1.0) + _ROUNDING
        known = self._squares / self._variance + trust
        self.seconds = max(0.0, (self._products / self._variance + usual * trust) / known)
        self.error = 1 / sqrt(known)

    def _differs(self, more: float, longer: float, cost: float, keep: float) -> None:
        expected, most = cost * more, _CLIP * sqrt(self._variance)
        rest = max(-most, min(most, longer - expected))
        self._fade(keep)
        self._squares += more * more
        self._products += more * (expected + rest)
        self._rest += rest * rest
        self._count += 1.0

    def _fade(self, keep: float) -> None:
        self._squares *= keep
        self._products *= keep
        self._rest *= keep
        self._count *= keep
