"""A map that stays small, by entries, weight and age, and log lines that stay few. No clock: calls say the time."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

EVERY = 60.0
"""Seconds between two log lines about the same one and the same kind."""
_MOST_THROTTLED = 1024


class ExpiringMap(Generic[K, V]):
    """Entries in the order in which they were put; the oldest goes first when there are too many.

    Entries that were put with one TTL expire in that order. Where TTLs differ, one may stay a while longer behind
    an older one that lives longer; `get` never returns it.

    Args:
        most: largest number of entries.
        ttl: seconds that an entry lives unless `put` says otherwise; `inf` is for ever.
        most_weight: largest weight of all entries together.
        weigh: gives the weight of a value; 1 each by default.
    """

    def __init__(
        self,
        *,
        most: int,
        ttl: float = inf,
        most_weight: float = inf,
        weigh: Callable[[V], float] | None = None,
    ) -> None:
        self._most = most
        self._ttl = ttl
        self._most_weight = most_weight
        self._weigh = weigh
        self._entries: OrderedDict[K, tuple[V, float, float]] = OrderedDict()  # value, weight, expiry
        self._weight = 0.0

    def __len__(self) -> int:
        """Entries, those that have expired and were not yet dropped included."""
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """Whether `key` is there, expired or not."""
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """Keys, the oldest first."""
        return iter(self._entries)

    def __reversed__(self) -> Iterator[K]:
        """Keys, the newest first."""
        return reversed(self._entries)

    def items(self) -> Iterator[tuple[K, V]]:
        """Keys and values, the oldest first."""
        return ((key, value) for key, (value, _, _) in self._entries.items())

    def alive(self, now: float) -> list[tuple[K, V, float]]:
        """Keys and values that have not expired, the oldest first, each with when it will."""
        return [(key, value, expires) for key, (value, _, expires) in self._entries.items() if expires > now]

    @property
    def next_expiry(self) -> float | None:
        """When the oldest entry expires; None when there is none, or it lives for ever."""
        _, _, expires = next(iter(self._entries.values()), (None, 0.0, inf))
        return None if expires == inf else expires

    def put(self, key: K, value: V, now: float, ttl: float | None = None) -> list[tuple[K, V]]:
        """Set an entry, as the newest.

        Args:
            key: key of the entry; if it is there, its old value goes and is not returned.
            value: value of the entry.
            now: seconds.
            ttl: seconds that this entry lives; None is the map's.

        Returns:
            Entries that had to go, the oldest first; the new one too, if it alone is too heavy.
        """
        self.pop(key)
        weight = 1.0 if self._weigh is None else self._weigh(value)
        self._entries[key] = value, weight, now + (self._ttl if ttl is None else ttl)
        self._weight += weight
        gone = []
        while len(self._entries) > self._most or self._weight > self._most_weight:
            gone.append(self._drop_oldest())
        return gone

    def get(self, key: K, now: float) -> V | None:
        """The value, or None if it is not there or has expired."""
        value, _, expires = self._entries.get(key, (None, 0.0, -inf))
        return None if expires <= now else value

    def pop(self, key: K) -> V | None:
        """Remove an entry; its value, or None if there is none. Says nothing about its age."""
        value, weight, _ = self._entries.pop(key, (None, 0.0, 0.0))
        self._weight -= weight
        return value

    def expire(self, now: float) -> list[tuple[K, V]]:
        """Drop the oldest entries as long as they have expired, and return them."""
        gone = []
        while self._entries and next(iter(self._entries.values()))[2] <= now:
            gone.append(self._drop_oldest())
        return gone

    def _drop_oldest(self) -> tuple[K, V]:
        key, (value, weight, _) = self._entries.popitem(last=False)
        self._weight -= weight
        return key, value


class LogThrottle:
    """Log lines that others can bring about: the first at once, then one in a while for whom and what."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        # The time of the last line, and how often it was due since.
        self._counts = ExpiringMap[tuple[str, str], list[float]](most=_MOST_THROTTLED)

    def due(self, who: str, kind: str, now: float) -> int:
        """Count one more; returns how many since the last line, this one included, or 0 if no line is due yet."""
        last = self._counts.get((who, kind), now)
        if last is None:
            self._counts.put((who, kind), [now, 0.0], now)
            return 1
        last[1] += 1
        if now - last[0] < self._every:
            return 0
        times = int(last[1])
        last[:] = [now, 0.0]
        return times
