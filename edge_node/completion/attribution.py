"""Who wrote which part of a text. Sans-IO."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from schemas.openai import Writer

Piece = tuple[str, Writer]
"""A part of a text, and who wrote it."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same text in as few pieces as can be, none of them empty."""
    found: list[Piece] = []
    for text, writer in pieces:
        if found and found[-1][1] == writer:
            found[-1] = (found[-1][0] + text, writer)
        elif text:
            found.append((text, writer))
    return found


class Origins:
    """The writer of each character of a text, in twelve bytes for each change."""

    def __init__(self) -> None:
        self._changes = array("I")  # where the writer changes
        self._writers: list[Writer] = ["target"]  # before the first change, and from each one on
        self._size = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        """The text goes on with these."""
        for piece, writer in pieces:
            if piece and writer != self._writers[-1]:
                self._changes.append(self._size)
                self._writers.append(writer)
            self._size += len(piece)

    def cut(self, shown: str, start: int) -> list[Piece]:
        """Cut a part of the text where its writer changes; the pieces joined are the part.

        Args:
            shown: the part.
            start: characters before it.
        """
        end = start + len(shown)
        first, last = bisect_right(self._changes, start), bisect_right(self._changes, end - 1)
        borders = [start, *self._changes[first:last], end]
        return [
            (shown[a - start : b - start], self._writers[first + number])
            for number, (a, b) in enumerate(pairwise(borders))
            if a < b
        ]
