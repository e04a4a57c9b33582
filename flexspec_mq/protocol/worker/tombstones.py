"""Sessions that were closed, remembered for a while so that late copies of their opens do not revive them."""

from __future__ import annotations

from collections import OrderedDict

from flexspec_mq.protocol.effects import SessionKey


class Tombstones:
    """Attempts at which sessions were closed.

    Args:
        most: the oldest of more is forgotten.
        life: seconds that one is kept.
    """

    def __init__(self, most: int, life: float) -> None:
        self._most = most
        self._life = life
        self._closed: OrderedDict[SessionKey, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._closed)

    def put(self, key: SessionKey, attempt: int, now: float) -> None:
        """Remember that `key` was closed at `attempt`, or above if that is known already."""
        before = self._closed.pop(key, (0, 0.0))
        self._closed[key] = (max(attempt, before[0]), now + self._life)
        if len(self._closed) > self._most:
            self._closed.popitem(last=False)

    def remove(self, key: SessionKey) -> None:
        """Forget `key`, which lives again at a higher attempt."""
        self._closed.pop(key, None)

    def closed_at(self, key: SessionKey, now: float) -> int | None:
        """The attempt at which `key` was closed, or None if that is not known (any more)."""
        self.expire(now)
        entry = self._closed.get(key)
        return entry[0] if entry else None

    def expire(self, now: float) -> None:
        """Forget what is old."""
        while self._closed and next(iter(self._closed.values()))[1] <= now:
            self._closed.popitem(last=False)
