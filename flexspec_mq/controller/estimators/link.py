"""The way to the broker: how often it breaks and for how long, how fast it acknowledges, what it carries."""

from __future__ import annotations

from math import exp, inf, sqrt

from flexspec_mq.controller.estimators.average import Average

_PRIOR = 0.02, 72.0
"""Disconnects, and the seconds of connection in which they came, before any is seen: one in an hour, not sure."""
_MEMORY = 600.0
"""Seconds of connection in which what is known fades to 1/e, back to that."""
BIG = 4096
"""Bytes of a message that takes its time mostly for being carried."""
_WINDOW = 1.0
"""Seconds in which arriving bytes are counted."""


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
        self._tell()

    def up(self, now: float) -> None:
        """There is a connection."""
        self._up, self._at = True, now

    def down(self, now: float) -> None:
        """It is lost."""
        if self._up:
            self.passed(now)
            self._up = False
            self._events += 1.0
            self._tell()

    def passed(self, now: float) -> None:
        """The connection, if there is one, has stood until now."""
        if not self._up or now <= self._at:
            return
        stood, self._at = now - self._at, now
        keep = exp(-stood / _MEMORY)
        self._events += (1.0 - keep) * (_PRIOR[0] - self._events)
        self._seconds += (1.0 - keep) * (_PRIOR[1] - self._seconds) + _MEMORY * (1.0 - keep)
        self._tell()

    def _tell(self) -> None:
        self.rate = self._events / self._seconds
        self.error = sqrt(self._events) / self._seconds


class LeastRate:
    """The most bytes per second that were seen lately: a link carries at least that.

    A transfer of few bytes says little, as most of its time is the way there and back.

    Args:
        least: bytes of a transfer that counts.
        life: seconds after which a newer transfer counts whatever it says.

    Attributes:
        per_second: None before a transfer.
    """

    __slots__ = ("_at", "_least", "_life", "_size", "per_second")

    def __init__(self, least: int, life: float = 60.0) -> None:
        self._least = least
        self._life = life
        self._at = -inf
        self._size = 0
        self.per_second: float | None = None

    def carried(self, size: int, seconds: float, now: float) -> None:
        """So many bytes took so long, until now. If as many as the best took longer, it got slower."""
        if size < self._least or seconds <= 0.0:
            return
        best, per_second = self.per_second, size / seconds
        if best is None or per_second >= best or size >= self._size or now - self._at > self._life:
            self.per_second, self._size, self._at = per_second, size, now


class LinkEstimates:
    """All that a node measures of its way to the broker.

    Attributes:
        disconnects: lost connections.
        outages: seconds from a lost connection to the next.
        acknowledged: seconds for QoS 0, 1 and 2 from handing a message to the link until it was done with it.
        up, down: payload that it carries.
    """

    def __init__(self) -> None:
        self.disconnects = Disconnects()
        self.outages = Average(memory=4.0, life=3600.0)
        self.acknowledged = Average(life=60.0), Average(life=60.0), Average(life=60.0)
        self.up, self.down = LeastRate(BIG), LeastRate(1)
        self._down_since: float | None = None
        self._window = -inf
        self._received = 0

    def link_up(self, now: float) -> None:
        """There is a connection."""
        if self._down_since is not None:
            self.outages.update(now - self._down_since, now)
            self._down_since = None
        self.disconnects.up(now)

    def link_down(self, now: float) -> None:
        """It is lost."""
        self.disconnects.down(now)
        self._down_since = now

    def published(self, qos: int, seconds: float, size: int, now: float) -> None:
        """The link is done with a message.

        Args:
            qos: level at which it was published.
            seconds: time from handing it to the link to its acknowledgement; at QoS 0, to the socket.
            size: bytes of its payload.
            now: seconds.
        """
        if size < BIG:
            self.acknowledged[qos].update(seconds, now)
        elif qos:
            self.up.carried(size, seconds, now)

    def received(self, size: int, now: float) -> None:
        """A message of so many bytes has come."""
        if now - self._window < _WINDOW:
            self._received += size
            return
        # The first message of a window was on its way before it; all others crossed the link in it.
        self.down.carried(self._received, _WINDOW, now)
        self._window, self._received = now, 0
        self.disconnects.passed(now)
