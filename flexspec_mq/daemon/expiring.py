"""A map that stays small: bounded by entries, by weight and by age. No clock: the caller says what time it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    weight: float
    expires: float


class ExpiringMap(Generic[K, V]):
    """Entries in the order in which they were put; the oldest goes first when there are too many.

    Entries that were put with one life expire in that order. Where lives differ, one may stay a while longer behind
    an older one that lives longer; `get` never returns it.

    Args:
        most: entries.
        life: seconds that an entry lives unless `put` says otherwise; `inf` is for ever.
        most_weight: of all entries together.
        weigh: weight of a value; 1 each by default.
    """

    def __init__(
        self,
        *,
        most: int,
        life: float = inf,
        most_weight: float = inf,
        weigh: Callable[[V], float] | None = None,
    ) -> None:
        self._most = most
        self._life = life
        self._most_weight = most_weight
        self._weigh = weigh
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
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
        return ((key, entry.value) for key, entry in self._entries.items())

    @property
    def weight(self) -> float:
        """Of all entries together."""
        return self._weight

    @property
    def next_expiry(self) -> float | None:
        """When the oldest entry expires; None when there is none, or it lives for ever."""
        first = next(iter(self._entries.values()), None)
        return None if first is None or first.expires == inf else first.expires

    def put(self, key: K, value: V, now: float, life: float | None = None) -> list[tuple[K, V]]:
        """Set an entry, as the newest.

        Args:
            key: if it is there, its old value goes and is not returned.
            value: with a weight, if the map has one.
            now: seconds.
            life: seconds that this entry lives; None is the map's.

        Returns:
            What had to go, the oldest first. That may be the new entry itself, if it alone is too heavy.
        """
        self.pop(key)
        weight = 1.0 if self._weigh is None else self._weigh(value)
        self._entries[key] = _Entry(value, weight, now + (self._life if life is None else life))
        self._weight += weight
        gone = []
        while len(self._entries) > self._most or self._weight > self._most_weight:
            gone.append(self._drop_oldest())
        return gone

    def get(self, key: K, now: float) -> V | None:
        """The value, or None if it is not there or has expired."""
        entry = self._entries.get(key)
        return None if entry is None or entry.expires <= now else entry.value

    def pop(self, key: K) -> V | None:
        """Remove an entry; its value, or None if there is none. Says nothing about its age."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._weight -= entry.weight
        return entry.value

    def expire(self, now: float) -> list[tuple[K, V]]:
        """Drop the oldest entries as long as they have expired, and return them."""
        gone = []
        while self._entries and next(iter(self._entries.values())).expires <= now:
            gone.append(self._drop_oldest())
        return gone

    def _drop_oldest(self) -> tuple[K, V]:
        key, entry = self._entries.popitem(last=False)
        self._weight -= entry.weight
        return key, entry.value
