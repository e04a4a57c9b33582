"""Who drafts for the sessions at a worker: how much it does itself, and how much of theirs it takes."""

from __future__ import annotations

_SMOOTHING = 1 / 4
_MOST = 8.0
"""Tokens of a draft that a worker takes, as far as is known before it says otherwise."""
_NEWEST = 1 / 3
"""Weight of the newest forward in the share of drafts that it takes."""
_HOPES = 1 / 128
"""How far that share goes back to all, by a forward that was offered nothing: so it is tried again some day."""


class WorkerDrafts:
    """What a worker's verdicts say about drafts.

    Attributes:
        per_verdict: tokens that it drafted itself for one verdict, smoothed over about four that let it.
        verdicts: that let it.
        taken: share of the edge's drafted tokens that were there for a forward, and that it verified.
    """

    __slots__ = ("_granted", "per_verdict", "taken", "verdicts")

    def __init__(self) -> None:
        self.per_verdict = 0.0
        self.verdicts = 0
        self.taken = 1.0
        self._granted = _MOST

    @property
    def granted(self) -> int | None:
        """How many tokens of a draft a forward of the worker takes, at least one; None is all that there may be."""
        return None if self._granted >= _MOST else max(1, round(self._granted))

    def told(
        self, drafted: int, granted: int | None, offered: int = 0, *, may: bool = True, sessions: int = 1
    ) -> None:
        """A verdict with tokens has come.

        Args:
            drafted: tokens that the worker drafted itself.
            granted: how many of a draft it verified, if others were put off.
            offered: tokens of a draft that it had for this forward, as far as is known.
            may: the edge lets it draft.
            sessions: of the node, each of which is told of a forward.
        """
        if may or drafted:
            self.verdicts += 1
            self.per_verdict += (drafted - self.per_verdict) * _SMOOTHING
        if granted is not None:
            self._granted = (self._granted + min(_MOST, granted)) / 2
            self.taken += (granted / max(offered, granted + 1) - self.taken) * _NEWEST
            return
        if self._granted < _MOST:
            self._granted = min(_MOST, self._granted + 1.0)
        self.taken += (1.0 - self.taken) * (_NEWEST if offered else _HOPES / sessions)
