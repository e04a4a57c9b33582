"""Keys and values of texts that have ended: the next turn of a conversation goes on from one of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST = 32
"""Tokens in common from which going on pays; conversations of one template have some in common anyway."""


class PooledKV(Protocol):
    """Keys and values of one text.

    Attributes:
        tokens: that they are of.
    """

    tokens: list[int]

    @property
    def capacity(self) -> int:
        """Tokens that the memory has room for."""
        ...

    def common(self, wanted: Sequence[int]) -> int:
        """Length of the longest common prefix with `wanted`."""
        ...


class DraftKVPool:
    """Bounded by what its members have room for; the oldest go first.

    Args:
        most: tokens.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: deque[PooledKV] = deque()

    def __len__(self) -> int:
        """Texts kept."""
        return len(self._texts)

    @property
    def tokens(self) -> int:
        """Tokens that all of them have room for."""
        return sum(kv.capacity for kv in self._texts)

    def put(self, kv: PooledKV) -> None:
        """Keep one."""
        self._texts.append(kv)
        while self.tokens > self._most:
            self._texts.popleft()

    def take(self, context: Sequence[int]) -> PooledKV | None:
        """The one with the longest beginning of `context`, the newest of equals; it is not kept any more.

        None if none has enough of it.
        """
        best, most = None, LEAST - 1
        for kv in reversed(self._texts):
            common = kv.common(context)
            if common > most:
                best, most = kv, common
        if best is not None:
            self._texts.remove(best)
        return best
