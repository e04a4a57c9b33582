"""How fast a session gets its tokens."""

from __future__ import annotations

_SMOOTHING = 1 / 8


class Rate:
    """Tokens per second, smoothed over about eight rounds. Silence counts once it has ended.

    Attributes:
        at: when the newest tokens came; None before any.
        per_second: None before a sample: the first tokens come after the prompt has been read, and tell nothing.
    """

    __slots__ = ("_seconds", "_tokens", "at", "per_second")

    def __init__(self) -> None:
        self.at: float | None = None
        self._seconds = 0.0
        self._tokens = 0.0
        self.per_second: float | None = None

    def got(self, tokens: int, now: float) -> None:
        """So many tokens were committed now, seconds on any clock that does not go back."""
        before, self.at = self.at, now
        if before is None:
            return
        took = now - before
        if not self._seconds:
            self._seconds, self._tokens = took, float(tokens)
        else:
            self._seconds += (took - self._seconds) * _SMOOTHING
            self._tokens += (tokens - self._tokens) * _SMOOTHING
        self.per_second = self._tokens / self._seconds if self._seconds > 0 else None
