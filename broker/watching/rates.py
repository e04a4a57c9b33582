"""Rates of users, by Mosquitto's log, and who goes beyond the limits.

Mosquitto itself bounds neither packets nor bytes a second of a client, nor the connections of a user. Who goes
beyond is not known to it as a user for a while: that ends all its connections, and it is not let in.

A worker's messages grow with its devices, so they are bounded by what these ask: each message that Mosquitto hands it
lets it answer that device so often, and all that it publishes beyond that is counted.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from broker.settings import ClientLimits, Role, User
from broker.watching.refusals import ClientConnections
from flexspec_mq import topics
from flexspec_mq.daemon.expiring import ExpiringMap

PACKETS = (b"Received ", b"Denied PUBLISH from ", b"\t", b"Will message ", b"Sending PUBLISH to ")
"""Beginnings of the lines that Mosquitto logs for a packet: kind, client id, and for a message that it takes or denies
``(d0, q1, r0, m7, 'TOPIC', ... (N bytes))``; of one for each filter that it subscribes to or leaves; and of the one
that comes before the topic of a will, which looks like a filter and is none of whoever sent the packet before. The
last one is of a message that Mosquitto hands out."""
_TAKEN, _FROM, _FILTER, _HANDED = b"Received PUBLISH", b" from ", b"\t", b"Sending PUBLISH to "
_ASKS = tuple(f", '{topics.ROOT}/{letter}/".encode() for letter in "od")
_ANSWERS = tuple(f"{topics.ROOT}/{letter}/" for letter in "vr")
_PARTS, _DETAILS = b" (d", b" ("
_QOS = slice(4, 5)
"""Where the QoS is in the details of a message, behind `_PARTS`."""
_BYTES = b" bytes))"
_CUT_OFF, _UNKNOWN_SIZE = 950, 262_144
"""Bytes of a line that Mosquitto may have cut off, as it does after 1,000 with the time, and bytes that it then counts
for: no client of ours has topics as long."""
_FILTER_COUNTS = 20
"""Packets that a filter counts for: it is logged twice, has retained messages sent, and takes memory."""
_MEAN_OF = 10.0
"""Seconds at its rate that a user may send at once."""
ANSWERS: Final = 272
"""Messages by which a worker answers one of a device's at most: `MAX_ANSWERS` of the protocol, of which a broker knows
nothing else."""
_UNIT = 1024
"""Bytes for each of which a message of a worker counts once more."""
_MOST_ASKED, _MOST_OWED = 64 * ANSWERS, 256 * ANSWERS
"""Answers that a worker may owe one device, and all of them: as many texts at a time, each of which runs ahead."""
_MOST_PAIRS = 100_000
"""Workers and devices of which that is remembered."""
_UNASKED = 0.1
"""Share of `client_messages` that a worker may publish without being asked: statuses, catalogues that it puts back."""
_WORKERS: Final = frozenset((Role.WORKER,))
_CLIENTS: Final = frozenset((Role.EDGE, Role.PUBLISHER, Role.OPERATOR, Role.ASKER))
"""Who is bounded beside workers: brokers of sites are not, as they bound their own clients."""


class Traffic:
    """Counts what each user sends.

    Attributes:
        messages: messages of each user that were taken, since the start.
        payload: bytes of their payloads.
        unasked: units of what each user published, but for answers to devices that had asked it.
        others: other packets of each user: filters, acknowledgements, pings, and messages that were denied.
    """

    def __init__(self, connections: ClientConnections) -> None:
        self.messages = Counter[str]()
        self.payload = Counter[str]()
        self.unasked = Counter[str]()
        self.others = Counter[str]()
        self._connections = connections
        self._asked = ExpiringMap[tuple[str, str], list[int]](most=_MOST_PAIRS)  # by worker and device
        self._owed = Counter[str]()  # by worker
        self._newest: str | None = None

    def line(self, line: bytes) -> None:
        """Read a line that begins with one of `PACKETS`."""
        if line.startswith(_HANDED):
            if any(asks in line for asks in _ASKS):
                self._handed(line)
            return
        if line.startswith(_FILTER):
            if self._newest is not None:
                self.others[self._newest] += _FILTER_COUNTS
                self.payload[self._newest] += len(line) if len(line) < _CUT_OFF else _UNKNOWN_SIZE
            return
        kind, _, client = line.partition(_FROM)
        size, tail = None, b""
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
            units = 1 + size // _UNIT
            if self._answers(user, _topic(tail), units):
                self.others[user] -= tail[_QOS] == b"2"  # its PUBREL
            else:
                self.unasked[user] += units

    def _handed(self, line: bytes) -> None:
        """Note what a device asks of a worker, which has to acknowledge it."""
        client, _, tail = line.removeprefix(_HANDED).rpartition(_PARTS)
        user, sender = self._user(client), topics.sender_of(_topic(tail))
        if user is None or sender is None:
            return
        asked = self._asked.pop((user, sender.edge)) or [0]  # whoever asks is the newest
        asked[0] = min(asked[0] + ANSWERS, _MOST_ASKED)
        self._asked.put((user, sender.edge), asked, 0.0)
        self._owed[user] = min(self._owed[user] + ANSWERS, _MOST_OWED)
        self.others[user] -= b"012".find(tail[_QOS])  # PUBACK, or PUBREC and PUBCOMP

    def _answers(self, worker: str, topic: str, units: int) -> bool:
        """Whether a message answers a device that has asked for as much."""
        if not topic.startswith(_ANSWERS):
            return False
        asked = self._asked.get((worker, topic.split("/")[2]), 0.0) or [0]
        if min(asked[0], self._owed[worker]) < units:
            return False
        asked[0] -= units
        self._owed[worker] -= units
        return True

    def _user(self, client: bytes) -> str | None:
        return self._connections.user_of(client.decode("utf-8", "replace"))


def _topic(details: bytes) -> str:
    """The topic in the details of a message, behind `_PARTS`; that of a name which none of ours can have may be cut."""
    return details.partition(b"'")[2].partition(b"'")[0].decode("utf-8", "replace")


class Guard:
    """Puts users that go beyond a limit out for a while.

    Attributes:
        out: time until which each user is out.
    """

    def __init__(
        self, limits: ClientLimits, traffic: Traffic, connections: ClientConnections, now: float
    ) -> None:
        self.banned: dict[str, float] = {}
        self._limits = limits
        self._connections = connections
        self._buckets = [
            _Buckets(totals, float(rate), unit, whose, now)
            for totals, rate, unit, whose in (
                (traffic.messages, limits.client_messages, "messages", _CLIENTS),
                (traffic.unasked, _UNASKED * limits.client_messages, "unasked messages", _WORKERS),
                (traffic.others, limits.client_messages, "other packets", _CLIENTS | _WORKERS),
                (traffic.payload, 1000 * limits.client_kb, "bytes", _CLIENTS),
                (connections.made, limits.client_connections, "new connections", _CLIENTS | _WORKERS),
            )
            if rate
        ]
        self._roles: dict[str, Role] = {}

    def know(self, users: Iterable[User]) -> None:
        """Learn what users are, which says by what they are bounded."""
        self._roles = {user.name: user.role for user in users}

    def look(self, now: float) -> list[tuple[str, str, str]]:
        """Ban who went beyond a limit, and let in whose time is over.

        Returns:
            Each user that is banned now, the limit (``rate`` or ``connections``), and the excess for people.
        """
        self.banned = {user: until for user, until in self.banned.items() if until > now}
        excesses: list[tuple[str, str, str]] = []
        for buckets in self._buckets:
            for user, rate in buckets.overflowing(now).items():
                if self._roles.get(user) in buckets.whose:
                    excesses.append((user, "rate", f"of {rate:.0f} {buckets.unit} a second"))
        if most := self._limits.client_connections:
            for user, number in self._connections.counts().items():
                if number > most and self._roles.get(user) in _CLIENTS | _WORKERS:
                    excesses.append((user, "connections", f"of which it has {number}"))
        new = [
            (user, kind, f"{what}; it is banned for {self._limits.put_out:g} s")
            for user, kind, what in excesses
            if user not in self.banned
        ]
        self.banned.update((user, now + self._limits.put_out) for user, _, _ in new)
        return new


class _Buckets:
    """Leaky buckets: how much each user has sent beyond its rate, and has still to wait for."""

    def __init__(
        self, totals: Counter[str], rate: float, unit: str, whose: frozenset[Role], now: float
    ) -> None:
        self.unit = unit
        self.whose = whose
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
