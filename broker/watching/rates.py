"""What each user publishes, by Mosquitto's log, and who goes beyond what one may.

Mosquitto itself bounds neither messages nor bytes a second of a client, nor the connections of a user. Who goes
beyond is not known to it as a user for a while: that ends all its connections, and it is not let in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from broker.settings import Limits, Role, User
from broker.watching.connections import Connections

PUBLISHED = b"Received PUBLISH from "
"""Beginning of the line that Mosquitto logs for a message that it takes: client id, ``(d0, q1, r0, m7, 'TOPIC', ...
(N bytes))``."""
_PARTS = b" (d"
_BYTES = len(" bytes))")
_MEAN_OF = 10.0
"""Seconds at its rate that a user may publish at once."""


class Published:
    """Counts what each user publishes.

    Args:
        connections: tells which user a client id is.

    Attributes:
        messages: of each user, since the start.
        payload: bytes of their payloads.
    """

    def __init__(self, connections: Connections) -> None:
        self.messages = Counter[str]()
        self.payload = Counter[str]()
        self._connections = connections

    def line(self, said: bytes) -> None:
        """A line that begins with `PUBLISHED`."""
        head, _, tail = said.rpartition(_PARTS)
        size = int(tail[tail.rindex(b"(") + 1 : -_BYTES])
        user = None
        # A client id, and where any version may be asked for a topic, may hold what stands between the parts.
        while head and (user := self._user(head)) is None:
            head = head.rpartition(_PARTS)[0]
        if user is not None:
            self.messages[user] += 1
            self.payload[user] += size

    def _user(self, head: bytes) -> str | None:
        return self._connections.user_of(head[len(PUBLISHED) :].decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Excess:
    """Somebody who went beyond a limit just now.

    Attributes:
        kind: ``rate`` or ``connections``.
        what: of it, for people.
    """

    user: str
    kind: str
    what: str


class Guard:
    """Who is out for a while.

    Args:
        limits: of one user.
        published: what each has published.
        connections: of each.
        now: seconds of `clock` when it begins.

    Attributes:
        out: until when each user is.
    """

    def __init__(self, limits: Limits, published: Published, connections: Connections, now: float) -> None:
        self.out: dict[str, float] = {}
        self._limits = limits
        self._connections = connections
        self._rates: list[tuple[Callable[[], Counter[str]], float, _Bucket, str]] = []
        for totals, rate, unit in (
            (published.messages, float(limits.client_messages), "messages"),
            (published.payload, 1000.0 * limits.client_kb, "bytes"),
        ):
            if rate:
                self._rates.append((totals.copy, rate, _Bucket(rate * _MEAN_OF, now), unit))
        self._exempt: frozenset[str] = frozenset()

    def know(self, users: Iterable[User]) -> None:
        """Who is bounded: all but workers, whose messages grow with the devices."""
        self._exempt = frozenset(user.name for user in users if user.role in (Role.WORKER, Role.DEPLOYMENT))

    def look(self, now: float) -> list[Excess]:
        """Time has passed; tells who is put out now. Who has been out long enough is no more in `out`."""
        self.out = {user: until for user, until in self.out.items() if until > now}
        found: list[Excess] = []
        for totals, rate, bucket, unit in self._rates:
            for user, seen in bucket.over(totals(), rate, now).items():
                found.append(self._excess(user, "rate", f"of {seen:.0f} {unit} a second"))
        if most := self._limits.client_connections:
            for user, number in self._connections.counts().items():
                if number > most:
                    found.append(self._excess(user, "connections", f"of which it has {number}"))
        new = [one for one in found if one.user not in self._exempt and one.user not in self.out]
        self.out.update((one.user, now + self._limits.put_out) for one in new)
        return new

    def _excess(self, user: str, kind: str, what: str) -> Excess:
        return Excess(user, kind, f"{what}; it is put out for {self._limits.put_out:g} s")


class _Bucket:
    """How much each user has published beyond its rate, and has still to wait for."""

    def __init__(self, size: float, now: float) -> None:
        self._size = size
        self._seen = Counter[str]()
        self._level: dict[str, float] = {}
        self._at = now

    def over(self, totals: Counter[str], rate: float, now: float) -> dict[str, float]:
        """Who has overflown it just now, and at what rate; they begin anew."""
        passed, self._at = max(now - self._at, 1e-3), now
        found = {}
        for user in {*self._level, *(user for user, total in totals.items() if total != self._seen[user])}:
            more = totals[user] - self._seen[user]
            level = max(0.0, self._level.pop(user, 0.0) - rate * passed) + more
            if level > self._size:
                found[user] = more / passed
            elif level:
                self._level[user] = level
        self._seen = totals
        return found
