"""Rates of users, by Mosquitto's log, and who goes beyond the limits.

Mosquitto itself bounds neither packets nor bytes a second of a client, nor the connections of a user. Who goes
beyond is not known to it as a user for a while: that ends all its connections, and it is not let in.
"""

from collections import Counter
from collections.abc import Iterable

from broker.settings import ClientLimits, Role, User
from broker.watching.refusals import ClientConnections

PACKETS = (b"Received ", b"Denied PUBLISH from ", b"\t", b"Will message ")
"""Beginnings of the lines that Mosquitto logs for a packet: kind, client id, and for a message that it takes or denies
``(d0, q1, r0, m7, 'TOPIC', ... (N bytes))``; of one for each filter that it subscribes to or leaves; and of the one
that comes before the topic of a will, which looks like a filter and is none of whoever sent the packet before."""
_TAKEN, _FROM, _FILTER = b"Received PUBLISH", b" from ", b"\t"
_PARTS, _DETAILS = b" (d", b" ("
_BYTES = b" bytes))"
_CUT_OFF, _UNKNOWN_SIZE = 950, 262_144
"""Bytes of a line that Mosquitto may have cut off, as it does after 1,000 with the time, and bytes that it then counts
for: no client of ours has topics as long."""
_FILTER_COUNTS = 20
"""Packets that a filter counts for: it is logged twice, has retained messages sent, and takes memory."""
_MEAN_OF = 10.0
"""Seconds at its rate that a user may send at once."""


class Traffic:
    """Counts what each user sends.

    Attributes:
        messages: messages of each user that were taken, since the start.
        payload: bytes of their payloads.
        others: other packets of each user: filters, acknowledgements, pings, and messages that were denied.
    """

    def __init__(self, connections: ClientConnections) -> None:
        self.messages = Counter[str]()
        self.payload = Counter[str]()
        self.others = Counter[str]()
        self._connections = connections
        self._newest: str | None = None

    def line(self, line: bytes) -> None:
        """Read a line that begins with one of `PACKETS`."""
        if line.startswith(_FILTER):
            if self._newest is not None:
                self.others[self._newest] += _FILTER_COUNTS
                self.payload[self._newest] += len(line) if len(line) < _CUT_OFF else _UNKNOWN_SIZE
            return
        kind, _, client = line.partition(_FROM)
        size = None
        if kind == _TAKEN:
            client, _, tail = client.rpartition(_PARTS)
            size = int(tail[tail.rindex(b"(") + 1 : -len(_BYTES)]) if tail.endswith(_BYTES) else _UNKNOWN_SIZE
        user = None
        # A client id, and where any version may be asked for a topic, may hold what stands between the parts.
        while client and (user := self._user(client)) is None:
            client = client.rpartition(_DETAILS)[0]
        self._newest = user
        if user is None:
            return
        if size is None:
            self.others[user] += 1
        else:
            self.messages[user] += 1
            self.payload[user] += size

    def _user(self, client: bytes) -> str | None:
        return self._connections.user_of(client.decode("utf-8", "replace"))


class Guard:
    """Puts users that go beyond a limit out for a while.

    Attributes:
        out: time until which each user is out.
    """

    def __init__(
        self, limits: ClientLimits, traffic: Traffic, connections: ClientConnections, now: float
    ) -> None:
        self.out: dict[str, float] = {}
        self._limits = limits
        self._connections = connections
        self._buckets = [
            _Buckets(totals, float(rate), unit, now)
            for totals, rate, unit in (
                (traffic.messages, limits.client_messages, "messages"),
                (traffic.others, limits.client_messages, "other packets"),
                (traffic.payload, 1000 * limits.client_kb, "bytes"),
                (connections.made, limits.client_connections, "new connections"),
            )
            if rate
        ]
        self._exempt: frozenset[str] = frozenset()

    def know(self, users: Iterable[User]) -> None:
        """Learn who is bounded: all but workers and sites, whose messages grow with the devices."""
        exempt = (Role.WORKER, Role.SITE, Role.CENTRE, Role.DEPLOYMENT)
        self._exempt = frozenset(user.name for user in users if user.role in exempt)

    def look(self, now: float) -> list[tuple[str, str, str]]:
        """Put out who went beyond a limit, and let in whose time is over.

        Returns:
            Each user that is put out now, the limit (``rate`` or ``connections``), and the excess for people.
        """
        self.out = {user: until for user, until in self.out.items() if until > now}
        excesses: list[tuple[str, str, str]] = []
        for buckets in self._buckets:
            for user, rate in buckets.overflowing(now).items():
                excesses.append((user, "rate", f"of {rate:.0f} {buckets.unit} a second"))
        if most := self._limits.client_connections:
            for user, number in self._connections.counts().items():
                if number > most:
                    excesses.append((user, "connections", f"of which it has {number}"))
        new = [
            (user, kind, f"{what}; it is put out for {self._limits.put_out:g} s")
            for user, kind, what in excesses
            if user not in self._exempt and user not in self.out
        ]
        self.out.update((user, now + self._limits.put_out) for user, _, _ in new)
        return new


class _Buckets:
    """Leaky buckets: how much each user has sent beyond its rate, and has still to wait for."""

    def __init__(self, totals: Counter[str], rate: float, unit: str, now: float) -> None:
        self.unit = unit
        self._totals = totals
        self._rate = rate
        self._seen = Counter[str]()
        self._level: dict[str, float] = {}
        self._at = now

    def overflowing(self, now: float) -> dict[str, float]:
        """Users whose bucket has overflowed just now, and at what rate; theirs are empty again."""
        totals = self._totals.copy()  # the log's thread goes on counting
        passed, self._at = max(now - self._at, 1e-3), now
        over = {}
        for user in {*self._level, *(user for user, total in totals.items() if total != self._seen[user])}:
            more = totals[user] - self._seen[user]
            level = max(0.0, self._level.pop(user, 0.0) - self._rate * passed) + more
            if level > self._rate * _MEAN_OF:
                over[user] = more / passed
            elif level:
                self._level[user] = level
        self._seen = totals
        return over
