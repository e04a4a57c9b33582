"""How far forecasts were off on this node: what tokens took, over what they were expected to take."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.controller.choices import Choice

_BEFORE = 1.1
"""Forecasts are taken to be so much too good before any was checked: they leave out all that nobody measures."""
_TOKENS = 24
"""Of a sample, at least: drafts come in runs."""
_LEARN = 0.1
"""Weight of the newest sample."""
_MOST = log(2.5)
"""How far a sample can be off; more than that is something else."""


class Calibration:
    """Ratios of measured to expected seconds, one for a worker that runs ahead and one for a worker that waits."""

    def __init__(self) -> None:
        self._logs = {True: log(_BEFORE), False: log(_BEFORE)}

    def ratio(self, choice: Choice) -> float:
        """By which a forecast of a choice with drafts is to be multiplied."""
        return exp(self._logs[choice.ahead])

    def saw(self, choice: Choice, took: float, expected: float) -> None:
        """Tokens took so many seconds where so many were expected, uncorrected."""
        found = max(-_MOST, min(_MOST, log(took / expected)))
        before = self._logs[choice.ahead]
        self._logs[choice.ahead] = before + _LEARN * (found - before)


class Check:
    """The tokens of one session since its choice was made.

    Args:
        calibration: gets the samples.
    """

    __slots__ = ("_calibration", "_choice", "_committed", "_expected", "_first", "_from")

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._choice: Choice | None = None
        self._committed = 0
        self._expected = 0.0
        self._first = True
        self._from = (0, 0.0)

    def goes_on(self, choice: Choice | None, expected: float, committed: int, at: float) -> None:
        """So many tokens are committed, the newest at this time, and the plan is from now on as before or another.

        Args:
            choice: with drafts of the device; None where nothing is to be learned.
            expected: seconds of a token, uncorrected.
            committed: in this session.
            at: seconds.
        """
        more, self._committed = committed - self._committed, committed
        if choice != self._choice:
            self._choice, self._first = choice, True
            return
        if choice is None or more <= 0:
            return
        if self._first:  # still of the plan before
            self._first, self._expected, self._from = False, 0.0, (committed, at)
            return
        self._expected += more * expected
        tokens, took = committed - self._from[0], at - self._from[1]
        if tokens >= _TOKENS and took > 0.0 and self._expected > 0.0:
            self._calibration.saw(choice, took, self._expected)
            self._expected, self._from = 0.0, (committed, at)
