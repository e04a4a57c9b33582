"""From committed tokens to the text that is shown, in pieces by who wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_node.completion.attribution import Piece, joined
from edge_node.completion.stops import StopFilter
from flexspec_mq.models.text import StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.tokenizer import Tokenizer
    from flexspec_mq.protocol.effects import Commit
    from schemas.openai import Writer


class PieceDecoder:
    """Decodes commits; half of a character and what may become a stop string are held back.

    Args:
        tokenizer: of the target.
        stops: strings that end the text and are not shown.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._filter = StopFilter(stops)
        self._held: list[Piece] = []  # decoded, and not shown yet

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing is shown any more."""
        return self._filter.hit

    def push(self, commit: Commit) -> list[Piece]:
        """What can be shown after a commit; neighbouring pieces have different writers."""
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

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._filter = StopFilter(stops)
        self._read = 0

    def __call__(self, committed: Sequence[int]) -> int | None:
        """Take all committed tokens; their number if the text ends with the last of them."""
        while self._read < len(committed):
            self._filter.push(self._decoder.push([committed[self._read]]))
            self._read += 1
        return len(committed) if self._filter.hit else None
