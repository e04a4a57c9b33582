"""The way to the broker: how often it breaks."""

from __future__ import annotations

from math import exp, sqrt

_PRIOR = 0.02, 72.0
"""Disconnects, and the seconds of connection in which they came, before any is seen: one in an hour, not sure."""
_MEMORY = 600.0
"""Seconds of connection in which what is known fades to 1/e, back to that."""
_COUNTED = 1.0
"""Seconds that a connection stands until they are counted."""


class Disconnects:
    """Lost connections as a Poisson process whose rate is known by a gamma distribution, with forgetting.

    Attributes:
        rate: mean of that distribution, per second of connection.
        error: standard deviation of it.
    """

    __slots__ = ("_at", "_events", "_seconds", "_up", "error", "rate")

    def __init__(self) -> None:
        self._events, self._seconds = _PRIOR
        self._up = False
        self._at = 0.0
        self._estimate()

    def link_up(self, now: float) -> None:
        """There is a connection."""
        self._up, self._at = True, now

    def link_down(self, now: float) -> None:
        """It is lost."""
        if self._up:
            self._stood(now)
            self._up = False
            self._events += 1.0
            self._estimate()

    def received(self, now: float) -> None:
        """A message has come: the connection, if there is one, has stood until now."""
        if self._up and now - self._at >= _COUNTED:
            self._stood(now)

    def _stood(self, now: float) -> None:
        stood, self._at = max(0.0, now - self._at), now
        keep = exp(-stood / _MEMORY)
        self._events += (1.0 - keep) * (_PRIOR[0] - self._events)
        self._seconds += (1.0 - keep) * (_PRIOR[1] - self._seconds) + _MEMORY * (1.0 - keep)
        self._estimate()

    def _estimate(self) -> None:
        self.rate = self._events / self._seconds
        self.error = sqrt(self._events) / self._seconds
