"""From committed tokens to the text that is shown, in pieces by who wrote them; stop strings end it. Sans-IO."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from flexspec_mq.grammar.tools import overlap
from flexspec_mq.models.text import stream_decoder
from flexspec_mq.models.tokenizer import Tokenizer
from flexspec_mq.protocol.effects import Commit
from schemas.openai import Writer

Piece = tuple[str, Writer]
"""A part of a text, and who wrote it."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same text in as few pieces as can be, none of them empty."""
    merged: list[Piece] = []
    for text, writer in pieces:
        if merged and merged[-1][1] == writer:
            merged[-1] = (merged[-1][0] + text, writer)
        elif text:
            merged.append((text, writer))
    return merged


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


class StopFilter:
    """Shows a text up to the first stop string, and holds back what may yet become one.

    The stop string that is complete first ends the text; where several are complete with the same character the
    longest counts. So what is shown does not depend on how the text was cut into pieces.

    Args:
        stops: non-empty strings.

    Attributes:
        hit: a stop string was found; nothing is shown any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, piece: str) -> str:
        """Add text; returns what can be shown now."""
        if self.hit:
            return ""
        text = self._held + piece
        complete = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if complete:
            self.hit = True
            self._held = ""
            return text[: min(complete)[1]]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text is over: returns what was held back."""
        held, self._held = self._held, ""
        return held


class PieceDecoder:
    """Decodes commits; half of a character and what may become a stop string are held back.

    Args:
        tokenizer: the target's.
        stops: strings that end the text and are not shown.
        before: tokens that it goes on from; see `stream_decoder`.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._decoder = stream_decoder(tokenizer, before)
        self._filter = StopFilter(stops)
        self._held: list[Piece] = []  # decoded, and not shown yet

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing is shown any more."""
        return self._filter.hit

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens whose writers are all the same: the text to show, up to a stop string."""
        return "".join(self._filter.push(self._decoder.push([token])) for token in tokens)

    def push(self, commit: Commit) -> list[Piece]:
        """Pieces to show after a commit; neighbouring pieces have different writers."""
        shown = ""
        for token, writer in zip(commit.tokens, commit.writers, strict=True):
            shown += self._decoded(self._decoder.push([token]), writer)
        return self._take(len(shown))

    def finish(self) -> list[Piece]:
        """The text is complete: what was held back."""
        shown = self._decoded(self._decoder.finish(), "target")
        return self._take(len(shown) + len(self._filter.finish()))

    def _decoded(self, text: str, writer: Writer) -> str:
        """Hold new text; returns what the stop strings let through."""
        if text:
            self._held.append((text, writer))
        return self._filter.push(text)

    def _take(self, count: int) -> list[Piece]:
        """The first characters of what is held."""
        taken: list[Piece] = []
        while count > 0:
            text, writer = self._held.pop(0)
            if len(text) > count:
                self._held.insert(0, (text[count:], writer))
            taken.append((text[:count], writer))
            count -= len(text)
        return joined(taken)


class StopFinder:
    """Tells the protocol at which token a stop string is complete; see `SessionRequest.finish_at`.

    It reads each committed token once. They never change, and come in order.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], before: Sequence[int] = ()) -> None:
        self._decoder = stream_decoder(tokenizer, before)
        self._filter = StopFilter(stops)
        self._read = 0

    def __call__(self, committed: Sequence[int]) -> int | None:
        """Take all committed tokens; their number if the text ends with the last of them."""
        while self._read < len(committed):
            self._filter.push(self._decoder.push([committed[self._read]]))
            self._read += 1
        return len(committed) if self._filter.hit else None
