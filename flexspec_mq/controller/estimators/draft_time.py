"""How long one token takes the draft model."""

from __future__ import annotations

_SMOOTHING = 1 / 8


class DraftTime:
    """Seconds per token, smoothed over about eight tokens.

    Attributes:
        seconds: None before a sample.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def took(self, seconds: float) -> None:
        """A token of the draft model took so long. The first of a text does not count: the prompt is read for it."""
        before = self.seconds
        self.seconds = seconds if before is None else before + (seconds - before) * _SMOOTHING
