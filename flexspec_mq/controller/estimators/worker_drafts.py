"""Who drafts for the sessions at a worker: how much it does itself, and how much of theirs it takes."""

from __future__ import annotations

from schemas.messages import MAX_DRAFT_TOKENS

_SMOOTHING = 1 / 4
_GROWS = 1 / 4
"""Tokens by which a batch may be longer again after each verdict that put nothing off."""


class WorkerDrafts:
    """What a worker's verdicts say about drafts.

    Attributes:
        per_verdict: tokens that it drafted itself for one verdict, smoothed over about four.
    """

    __slots__ = ("_granted", "per_verdict")

    def __init__(self) -> None:
        self.per_verdict = 0.0
        self._granted = float(MAX_DRAFT_TOKENS)

    @property
    def granted(self) -> int | None:
        """How many tokens of a draft a forward of the worker takes; None is all that there may be."""
        return None if self._granted >= MAX_DRAFT_TOKENS else int(self._granted)

    def told(self, drafted: int, granted: int | None) -> None:
        """A verdict with tokens has come.

        Args:
            drafted: tokens that the worker drafted itself.
            granted: how many of a draft it verified, if others were put off.
        """
        self.per_verdict += (drafted - self.per_verdict) * _SMOOTHING
        if granted is not None:
            self._granted = float(granted)
        elif self._granted < MAX_DRAFT_TOKENS:
            self._granted += _GROWS
