"""How often an edge is told that what it sends cannot be read."""

from __future__ import annotations

from flexspec_mq.daemon.expiring import ExpiringMap


class ErrorRateLimiter:
    """Grants one answer per edge and `pause`, so that two daemons can never answer each other's noise for ever.

    Args:
        pause: seconds between two answers to one edge.
        edges: remembered; on overflow the one that was answered longest ago is forgotten.

    Attributes:
        kept_silent: refusals that were not sent.
    """

    def __init__(self, *, pause: float = 1.0, edges: int = 1024) -> None:
        self._answered = ExpiringMap[str, bool](most=edges, life=pause)
        self.kept_silent = 0

    def __len__(self) -> int:
        """Edges remembered."""
        return len(self._answered)

    def may_answer(self, edge: str, now: float) -> bool:
        """Whether `edge` is told now; counts as told if so."""
        if self._answered.get(edge, now):
            self.kept_silent += 1
            return False
        self._answered.put(edge, True, now)
        return True
