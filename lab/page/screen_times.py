"""How long a verdict takes to the screen: a device's history beside what its page had drawn."""

import time
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.models.load import load_text
from flexspec_mq.models.text import decode
from lab.chaos.history import Committed, Judged, Session, read_history

Drawn = Sequence[tuple[int, float]]
"""Lengths of an answer that were on the screen, and since when, in seconds since the Unix epoch."""


class ScreenTimes:
    """Reads a device's history anew after each answer.

    Args:
        trace: file of `lab.chaos.traced`.
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._tokenizer = load_text().tokenizer

    def newest(self, drawn: Drawn) -> list[float]:
        """Seconds from each verdict of the newest text that lengthened it to a frame that shows what it brought.

        Raises:
            ValueError: the page never showed the whole text.
        """
        history = read_history([self._trace])
        last = max(record.session for record in history if isinstance(record, Session))
        epoch = time.time() - time.monotonic()
        tokens: list[int] = []
        arrived, length, found = 0.0, 0, list[float]()
        for record in history:
            if isinstance(record, Judged) and record.session == last:
                arrived = epoch + record.at
            elif isinstance(record, Committed) and record.session == last:
                tokens += record.tokens
                written = self._length(tokens)
                if written > length:
                    length = written
                    found.append(_first(drawn, length) - arrived)
        return found

    def _length(self, tokens: Sequence[int]) -> int:
        """UTF-16 units of a text without its unfinished character."""
        text = decode(self._tokenizer, tokens).rstrip("\N{REPLACEMENT CHARACTER}")
        return len(text.encode("utf-16-le")) // 2


def _first(drawn: Drawn, length: int) -> float:
    for shown, at in drawn:
        if shown >= length:
            return at
    raise ValueError(f"the page showed {max((shown for shown, _ in drawn), default=0)} of {length} units")
