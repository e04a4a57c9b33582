"""Sums of drafts and what became of them, as figures of a daemon tell them by target version."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

POSITIONS = 16
"""Positions of a draft that are counted apart; accepted tokens behind these are in the sums only."""


@dataclass(slots=True)
class DraftTally:
    """Drafts that met the target's decisions: an edge's tokens of one round, then those of the worker's own draft.

    Attributes:
        drafted: drafted tokens that were judged.
        accepted: right ones among them.
        lengths: drafts by their accepted tokens; the last place is for all of `POSITIONS` and more.
    """

    drafted: int = 0
    accepted: int = 0
    lengths: list[int] = field(default_factory=lambda: [0] * (POSITIONS + 1))

    def met(self, drafted: int, accepted: int) -> None:
        """Count a draft; one without tokens is none."""
        if drafted:
            self.drafted += drafted
            self.accepted += accepted
            self.lengths[min(accepted, POSITIONS)] += 1

    def add(self, other: DraftTally) -> None:
        """Count the drafts of another tally too."""
        self.drafted += other.drafted
        self.accepted += other.accepted
        self.lengths = [mine + its for mine, its in zip(self.lengths, other.lengths, strict=True)]

    @property
    def drafts(self) -> int:
        """Drafts with at least one token."""
        return sum(self.lengths)

    @property
    def by_position(self) -> list[int]:
        """Accepted tokens at each of the first positions of a draft."""
        return list(accumulate(reversed(self.lengths[1:])))[::-1]
