"""Whether a worker has room for one more session, who has to make room for it, and when there probably will be some.

A place is free when a session ends. With `n` live sessions that live `t` seconds on average, one ends every `t / n`
seconds; so an edge that needs `k` places, with `w` sessions told to wait before it, is told to come back after
`(k + w) · t / n` seconds. No more sessions of another device count as before it than it has waiting itself.

Where there is no room, places are shared out by device. A device holds the larger one of its share of the
places and its share of the tokens, the dominant share (Ghodsi and others, NSDI 2011). A device that would hold less
than another one still does afterwards takes a place of that: its newest session goes, before it those that are written
for a delivery alone, and its edge opens it again. A device that is away, so that all of its sessions are written so,
keeps only places that nobody else wants.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from flexspec_mq import waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.session import WorkerSession
from flexspec_mq.protocol.worker.types import WorkerConfig

_GRAIN = 64
"""Tokens; memory of the KV cache comes in multiples of this many."""
_MOST_REFUSED = 1024
_WEIGHT = 0.125
"""Weight of the newest session in their mean duration."""
_MOST_REFUSED_OF_DEVICE = 64
_TAKES_EVERY = 1.0
"""Seconds from one time that a device takes a place of another to the next."""


class Admission:
    """Decides whether a worker takes a session on, by what it knows of its load.

    Args:
        config: capacity and room.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._mean: float | None = None
        self._refused = ExpiringMap[SessionKey, bool](most=_MOST_REFUSED)
        self._waiting = Counter[str]()  # of those, by device
        self._took = ExpiringMap[str, bool](most=_MOST_REFUSED, ttl=_TAKES_EVERY)

    def ended(self, session: WorkerSession, now: float) -> None:
        """The text of a live session is over here."""
        lived = now - session.opened_at
        self._mean = lived if self._mean is None else self._mean + _WEIGHT * (lived - self._mean)

    def opened(self, key: SessionKey) -> None:
        """An edge got its place."""
        if self._refused.pop(key):
            self._forget(key[0])

    def places_missing(self, live: Collection[WorkerSession], tokens: int) -> int:
        """How many sessions must end before one with so many tokens can be taken; 0 if it can be now."""
        missing = len(live) + 1 - self._config.capacity
        if self._config.room is not None and live:
            held = sum(_padded(session.tokens) for session in live)
            over = held + _padded(tokens) - self._config.room
            missing = max(missing, min(len(live), -(-over * len(live) // held)))
        return max(0, missing)

    def retry(self, key: SessionKey, live: Collection[WorkerSession], places: int, now: float) -> float:
        """Seconds after which an edge that was refused shall come back; counts it as waiting until then."""
        for (edge, _), _ in self._refused.expire(now):
            self._forget(edge)
        before = self._before(key)
        ages = [now - session.opened_at for session in live]
        duration = max(self._mean or 0.0, sum(ages) / len(ages)) if ages else 0.0
        hint = (places + before) * duration / len(ages) if duration else waiting.ANSWER / 2
        least, most = waiting.BUSY
        hint = max(least, min(most, hint))
        if key in self._refused or self._waiting[key[0]] < _MOST_REFUSED_OF_DEVICE:
            self._waiting[key[0]] += key not in self._refused
            for (edge, _), _ in self._refused.put(key, True, now, ttl=hint):
                self._forget(edge)
        return hint

    def _forget(self, edge: str) -> None:
        self._waiting[edge] -= 1
        if self._waiting[edge] <= 0:
            del self._waiting[edge]

    def over_quota(self, edge: str, live: Iterable[WorkerSession], tokens: int) -> str:
        """Why a device may have no session more, whoever else there is; empty if it may.

        Args:
            edge: the device.
            live: sessions whose text goes on, of all.
            tokens: number that the session would hold.
        """
        sessions, held = (counts[edge] for counts in _holdings(live))
        if sessions >= self._config.device_sessions:
            return f"this device holds {sessions} sessions here, as many as one may"
        if sessions and held + _padded(tokens) > self._config.device_tokens:
            return f"this device holds {held} tokens here, and one may hold {self._config.device_tokens}"
        return ""

    def make_room(
        self, edge: str, live: Collection[WorkerSession], tokens: int, now: float
    ) -> list[WorkerSession]:
        """Sessions of other devices that must go so that one with so many tokens can be taken; none if none should.

        Devices that are away yield first, whatever they hold; from others one place is taken now and then, by shares.

        Args:
            edge: the device that asks.
            live: sessions whose text goes on, of all.
            tokens: number that the session would hold.
            now: seconds.
        """
        there = {session.key[0] for session in live if now < session.away_since + 5 * waiting.ANSWER} | {edge}
        left = list(live)
        gone: list[WorkerSession] = []
        while self.places_missing(left, tokens):
            sessions, held = _holdings(left)
            wanted = self._share(sessions[edge] + 1, held[edge] + _padded(tokens))
            away = [device for device in sessions if device not in there]
            greediest = max(away or sessions, key=lambda device: self._share(sessions[device], held[device]))
            going = max(
                (session for session in left if session.key[0] == greediest),
                key=lambda session: (-session.away_since, session.opened_at),
            )
            after = self._share(sessions[greediest] - 1, held[greediest] - _padded(going.tokens))
            if not away and (greediest == edge or after < wanted or self._took.get(edge, now)):
                return []
            left.remove(going)
            gone.append(going)
        if any(session.key[0] in there for session in gone):
            self._took.put(edge, True, now)
        return gone

    def _share(self, sessions: int, tokens: int) -> float:
        room = self._config.room
        return max(sessions / self._config.capacity, 0.0 if room is None else tokens / room)

    def _before(self, key: SessionKey) -> int:
        """Sessions that were told to wait and come before one: its device's own, and as many of each other one."""
        mine = self._waiting.get(key[0], 0) - (key in self._refused)
        others = len(self._waiting) - (key[0] in self._waiting)
        if not mine:
            return others
        return mine + sum(min(count, mine + 1) for edge, count in self._waiting.items() if edge != key[0])


def _holdings(live: Iterable[WorkerSession]) -> tuple[Counter[str], Counter[str]]:
    """Sessions and tokens of each device."""
    sessions, tokens = Counter[str](), Counter[str]()
    for session in live:
        sessions[session.key[0]] += 1
        tokens[session.key[0]] += _padded(session.tokens)
    return sessions, tokens


def _padded(tokens: int) -> int:
    return -(-tokens // _GRAIN) * _GRAIN
