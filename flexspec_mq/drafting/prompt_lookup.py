"""Finding earlier occurrences of how a text ends now: a suffix lookup in the session's own tokens.

A hash chain, as in LZ77 compressors: each pair of tokens leads to its last occurrence, each occurrence to the one
before. The longest match wins, the newest of equals (on target-written text that beat the most frequent one). A
step costs some ten microseconds; nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST = 32
"""Tokens of a match that are told apart; longer ones count as this."""
_TRIES = 24
"""Occurrences of a pair that are looked at, newest first."""
_NONE = -1


class Support(Enum):
    """Support of a found token by other occurrences of the text's last two tokens."""

    SINGLE = "single"
    """Only the last token has occurred before."""
    ALONE = "alone"
    """There is no other occurrence."""
    ALL = "all"
    """All were followed by the same token."""
    MOST = "most"
    """At least half of them, the one found included, were."""
    FEW = "few"
    """Fewer were."""


@dataclass(frozen=True, slots=True)
class Found:
    """Token that followed the text's end the last time.

    Attributes:
        token: id of the token.
        length: tokens in common before it, 1 to `LONGEST`.
        support: how far other occurrences agree.
    """

    token: int
    length: int
    support: Support


class Lookup:
    """The tokens of one session that are decided for good, and where to find them.

    Memory grows by some hundred bytes a token, up to `most` tokens; what comes later is matched, but not found.

    Args:
        most: tokens that are indexed.
    """

    def __init__(self, most: int = 32_768) -> None:
        self._most = most
        self._tokens: list[int] = []
        # Places are positions after an occurrence; the lists lead from each to the one before it.
        self._singles: dict[int, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._single_before: list[int] = [_NONE]
        self._pair_before: list[int] = [_NONE]

    def __len__(self) -> int:
        """Tokens held."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on with these, for good."""
        for token in tokens:
            before = self._tokens[-1] if self._tokens else None
            self._tokens.append(token)
            place = len(self._tokens)
            if place > self._most:
                continue
            self._single_before.append(self._singles.get(token, _NONE))
            self._singles[token] = place
            if before is None:
                self._pair_before.append(_NONE)
                continue
            self._pair_before.append(self._pairs.get((before, token), _NONE))
            self._pairs[before, token] = place

    def find(self, pending: Sequence[int] = ()) -> Found | None:
        """Token behind the longest earlier occurrence of the end of text and pending draft; None if there is none.

        Args:
            pending: tokens that follow the text, but may go again. No occurrence is looked for that ends in them.
        """
        tail = [*self._tokens[-LONGEST:], *pending][-LONGEST:]
        end = len(self._tokens) + len(pending)
        places = self._places(tail, end)
        if not places:
            return self._single(tail, end, pending)
        best, most = places[0], 0
        for place in places:
            length = self._common(place, tail)
            if length > most:
                best, most = place, length
                if length == len(tail):
                    break
        token = self._after(best, pending)
        return Found(token, most, self._support(token, places, pending))

    def _places(self, tail: list[int], end: int) -> list[int]:
        """After which the last two tokens have stood before, the newest first."""
        if len(tail) < 2:
            return []
        found: list[int] = []
        place = self._pairs.get((tail[-2], tail[-1]), _NONE)
        while place != _NONE and len(found) < _TRIES:
            if place < end:  # else it is the text's end itself
                found.append(place)
            place = self._pair_before[place]
        return found

    def _common(self, place: int, tail: list[int]) -> int:
        length, text = 2, self._tokens
        while length < len(tail) and place > length and text[place - length - 1] == tail[-length - 1]:
            length += 1
        return length

    def _single(self, tail: list[int], end: int, pending: Sequence[int]) -> Found | None:
        if not tail:
            return None
        place = self._singles.get(tail[-1], _NONE)
        if place == end:
            place = self._single_before[place]
        return None if place == _NONE else Found(self._after(place, pending), 1, Support.SINGLE)

    def _after(self, place: int, pending: Sequence[int]) -> int:
        size = len(self._tokens)
        return self._tokens[place] if place < size else pending[place - size]

    def _support(self, token: int, places: list[int], pending: Sequence[int]) -> Support:
        if len(places) == 1:
            return Support.ALONE
        votes = sum(self._after(place, pending) == token for place in places)
        if votes == len(places):
            return Support.ALL
        return Support.MOST if 2 * votes >= len(places) else Support.FEW
