"""Whether a worker has room for one more session, and when it probably will have.

A place is free when a session ends. With `n` live sessions that live `t` seconds on average, one ends every `t / n`
seconds; so an edge that needs `k` places, with `w` edges told to wait before it, is told to come back after
`(k + w) · t / n` seconds.
"""

from __future__ import annotations

from collections.abc import Collection

from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.session import WorkerSession
from flexspec_mq.protocol.worker.types import WorkerConfig

_GRAIN = 64
"""Tokens; memory for keys and values comes in multiples of this many."""
_MOST_REFUSED = 1024
_WEIGHT = 0.125
"""Of the newest session in the mean life."""


class Admission:
    """Decides whether a worker takes a session on, by what it knows of its load.

    Args:
        config: capacity, room, and bounds of the hint.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._life: float | None = None
        self._refused = ExpiringMap[SessionKey, bool](most=_MOST_REFUSED)

    def ended(self, session: WorkerSession, now: float) -> None:
        """The text of a live session is over here."""
        lived = now - session.opened_at
        self._life = lived if self._life is None else self._life + _WEIGHT * (lived - self._life)

    def opened(self, key: SessionKey) -> None:
        """An edge got its place."""
        self._refused.pop(key)

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
        self._refused.expire(now)
        before = len(self._refused) - (key in self._refused)
        ages = [now - session.opened_at for session in live]
        life = max(self._life or 0.0, sum(ages) / len(ages)) if ages else 0.0
        hint = (places + before) * life / len(ages) if life else self._config.busy_retry
        hint = max(self._config.busy_least, min(self._config.busy_most, hint))
        self._refused.put(key, True, now, life=hint)
        return hint


def _padded(tokens: int) -> int:
    return -(-tokens // _GRAIN) * _GRAIN
