"""Stop strings in a stream of text. Sans-IO."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Shows a text up to the first stop string, and holds back what may yet become one.

    Of several stop strings the one that is complete first ends the text; of those that are complete with the
    same character the longest counts. So what is shown does not depend on how the text was cut into pieces.

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
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text is over: returns what was held back."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` with which `stop` begins."""
        return next(
            (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
        )
