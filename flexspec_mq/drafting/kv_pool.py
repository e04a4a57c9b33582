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
        tokens: ids that they belong to.
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

    A text is found by the device that it was of: else one could tell by the time whether another had sent the same.

    Args:
        most: tokens.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: deque[tuple[str, PooledKV]] = deque()

    def __len__(self) -> int:
        """Texts kept."""
        return len(self._texts)

    @property
    def tokens(self) -> int:
        """Tokens that all of them have room for."""
        return sum(kv.capacity for _, kv in self._texts)

    def put(self, kv: PooledKV, device: str = "") -> None:
        """Keep one of a device's texts."""
        self._texts.append((device, kv))
        while self.tokens > self._most:
            self._texts.popleft()

    def take(self, context: Sequence[int], device: str = "") -> PooledKV | None:
        """The device's one with the longest beginning of `context`, the newest of equals; it is not kept any more.

        None if none has enough of it.
        """
        best, _ = self._best(context, device)
        if best is None:
            return None
        _, found = self._texts[best]
        del self._texts[best]
        return found

    def common(self, context: Sequence[int], device: str = "") -> int:
        """Length of the beginning of `context` that `take` would give; 0 for None."""
        best, most = self._best(context, device)
        return 0 if best is None else most

    def _best(self, context: Sequence[int], device: str) -> tuple[int | None, int]:
        """Place of the text that `take` takes, and what it has in common."""
        best, most = None, LEAST - 1
        for place in range(len(self._texts) - 1, -1, -1):
            owner, kv = self._texts[place]
            if owner == device and (common := kv.common(context)) > most:
                best, most = place, common
        return best, most
