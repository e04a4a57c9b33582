"""The way to the broker: how often it breaks, and how many bytes it carries."""

from math import exp, inf, sqrt

_PRIOR = 0.02, 72.0
"""Disconnects, and the seconds of connection in which they came, before any is seen: one in an hour, not sure."""
_MEMORY = 600.0
"""Seconds of connection in which what is known fades to 1/e, back to that."""
_COUNTED = 1.0
"""Seconds that a connection stands until they are counted."""
LARGE = 4096
"""Bytes of a message that takes its time mostly for being carried."""
_WINDOW = 1.0
"""Seconds in which arriving bytes are counted."""
_TTL = 60.0
"""Seconds after which a newer transfer counts whatever it says."""


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


class Bandwidth:
    """The most bytes per second that one direction was seen to carry lately: a lower bound, as senders may be idle.

    Attributes:
        per_second: payload bytes per second; None before a transfer.
    """

    __slots__ = ("_at", "_began", "_received", "_size", "per_second")

    def __init__(self) -> None:
        self._at = self._began = -inf
        self._size = self._received = 0
        self.per_second: float | None = None

    def carried(self, size: int, seconds: float, now: float) -> None:
        """Take a transfer of `size` bytes that took `seconds`; as large as the best, it tells of a slower link."""
        if seconds <= 0.0:
            return
        best, per_second = self.per_second, size / seconds
        if best is None or per_second >= best or size >= self._size or now - self._at > _TTL:
            self.per_second, self._size, self._at = per_second, size, now

    def received(self, size: int, now: float) -> None:
        """Take a message of `size` bytes that has come, with all others of the same second as one transfer."""
        if now - self._began < _WINDOW:
            self._received += size
            return
        # The first message of a window was on its way before it; all others crossed the link in it.
        if self._received:
            self.carried(self._received, _WINDOW, now)
        self._began, self._received = now, 0
