"""How often an edge is told that what it sends cannot be read."""

from __future__ import annotations

from collections import OrderedDict


class ErrorRateLimiter:
    """Grants one answer per edge and `pause`, so that two daemons can never answer each other's noise for ever.

    Args:
        pause: seconds between two answers to one edge.
        edges: remembered; on overflow the one that was answered longest ago is forgotten.

    Attributes:
        kept_silent: refusals that were not sent.
    """

    def __init__(self, *, pause: float = 1.0, edges: int = 1024) -> None:
        self._pause = pause
        self._edges = edges
        self._answered: OrderedDict[str, float] = OrderedDict()
        self.kept_silent = 0

    def __len__(self) -> int:
        """Edges remembered."""
        return len(self._answered)

    def may_answer(self, edge: str, now: float) -> bool:
        """Whether `edge` is told now; counts as told if so."""
        last = self._answered.get(edge)
        if last is not None and now < last + self._pause:
            self.kept_silent += 1
            return False
        self._answered[edge] = now
        self._answered.move_to_end(edge)
        if len(self._answered) > self._edges:
            self._answered.popitem(last=False)
        return True
