"""Who wrote which part of a text: the draft on the device, or the target. Sans-IO."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

Piece = tuple[str, bool]
"""A part of a text, and whether it was drafted on the device and accepted; else the target wrote it."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same text in as few pieces as can be, none of them empty."""
    found: list[Piece] = []
    for text, accepted in pieces:
        if found and found[-1][1] == accepted:
            found[-1] = (found[-1][0] + text, accepted)
        elif text:
            found.append((text, accepted))
    return found


class Origins:
    """The origin of each character of a text, in four bytes for each change of it."""

    def __init__(self) -> None:
        self._changes = array("I")  # where the origin changes; a text begins as the target's
        self._size = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        """The text goes on with these."""
        for piece, accepted in pieces:
            if piece and accepted != self._accepted_after(len(self._changes)):
                self._changes.append(self._size)
            self._size += len(piece)

    def cut(self, shown: str, start: int) -> list[Piece]:
        """Cut a part of the text where its origin changes; the pieces joined are the part.

        Args:
            shown: the part.
            start: characters before it.
        """
        end = start + len(shown)
        first, last = bisect_right(self._changes, start), bisect_right(self._changes, end - 1)
        borders = [start, *self._changes[first:last], end]
        return [
            (shown[a - start : b - start], self._accepted_after(first + number))
            for number, (a, b) in enumerate(pairwise(borders))
            if a < b
        ]

    @staticmethod
    def _accepted_after(changes: int) -> bool:
        return changes % 2 == 1
