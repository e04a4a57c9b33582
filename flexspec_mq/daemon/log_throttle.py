"""Lines of the log that others can bring about: the first at once, then at most one a minute for whom and what."""

from __future__ import annotations

from flexspec_mq.daemon.expiring import ExpiringMap

EVERY = 60.0
"""Seconds between two lines about the same one and the same kind."""
_MOST = 1024


class Rarely:
    """What has been told about whom. No clock: calls take `now` in seconds."""

    def __init__(self) -> None:
        self._counts = ExpiringMap[tuple[str, str], list[float]](most=_MOST)  # last line, times since

    def due(self, who: str, kind: str, now: float) -> int:
        """Something happened: how often since the last line about it, this time included; 0 if no line is due yet."""
        found = self._counts.get((who, kind), now)
        if found is None:
            self._counts.put((who, kind), [now, 0.0], now)
            return 1
        found[1] += 1
        if now - found[0] < EVERY:
            return 0
        times = int(found[1])
        found[:] = [now, 0.0]
        return times
