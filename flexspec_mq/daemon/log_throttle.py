"""Log lines that others can bring about: the first at once, then at most one in a while for whom and what."""

from __future__ import annotations

from flexspec_mq.daemon.expiring import ExpiringMap

EVERY = 60.0
"""Seconds between two lines about the same one and the same kind."""
_MOST = 1024


class LogThrottle:
    """Which lines are due. No clock: calls take `now` in seconds."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._counts = ExpiringMap[tuple[str, str], list[float]](most=_MOST)  # last line, times since

    def due(self, who: str, kind: str, now: float) -> int:
        """Count one more; returns how many since the last line, this one included, or 0 if no line is due yet."""
        last = self._counts.get((who, kind), now)
        if last is None:
            self._counts.put((who, kind), [now, 0.0], now)
            return 1
        last[1] += 1
        if now - last[0] < self._every:
            return 0
        times = int(last[1])
        last[:] = [now, 0.0]
        return times
