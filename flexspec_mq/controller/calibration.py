"""How far forecasts were off on this node: what tokens took, over what they were expected to take."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flexspec_mq.controller.choices import Choice

BEFORE = log(1.1)
"""The closed form is taken to be so much too good before any of it was checked: it leaves out all that nobody
measures."""
_TOKENS = 24
"""Of a sample, at least: drafts come in runs."""
_LEARN = 0.1
"""Weight of the newest sample."""
_FORGET = 0.02
"""How far what was not tried goes back to what it was before, by each sample of something else."""
_MOST = log(2.5)
"""How far a sample can be off; more than that is something else."""

_Kind = Literal["nobody", "ahead", "waits"]
_KINDS: tuple[_Kind, ...] = "nobody", "ahead", "waits"


def _kind(choice: Choice) -> _Kind:
    if not choice.length:
        return "nobody"
    return "ahead" if choice.ahead else "waits"


class Calibration:
    """Ratios of measured to expected seconds: where nobody drafts, where a worker runs ahead, and where it waits.

    What is not tried is forgotten little by little, so that it is tried again some day.

    Args:
        before: logarithm of the ratio before any was seen.
    """

    def __init__(self, before: float = BEFORE) -> None:
        self._before = before
        self._logs = dict.fromkeys(_KINDS, before)

    def ratio(self, choice: Choice) -> float:
        """By which a forecast of a choice is to be multiplied."""
        return exp(self._logs[_kind(choice)])

    def saw(self, choice: Choice, took: float, expected: float) -> None:
        """Tokens took so many seconds where so many were expected, uncorrected."""
        found = max(-_MOST, min(_MOST, log(took / expected)))
        for kind, before in self._logs.items():
            if kind == _kind(choice):
                self._logs[kind] = before + _LEARN * (found - before)
            else:
                self._logs[kind] = before + _FORGET * (self._before - before)


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
            choice: None where the worker drafts, and nothing is to be learned.
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
