"""Keys and values of one session in numpy's memory, bound to a run of the backbone once and not at each token."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

import numpy as np

from flexspec_mq.models.read_tokens import ReadTokens

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from onnxruntime import IOBinding

    Memory = npt.NDArray[np.float32]

GRAIN = 64
"""Capacity grows in multiples of this many tokens."""


class OnnxKV(ReadTokens):
    """Keys and values of the tokens that a draft has read in one session.

    Memory is one array of shape [layers, 2, kv heads, capacity, head size]; the graph writes behind what is held,
    into the array itself. What lies beyond `length` is never read, so rolling back is forgetting tokens.

    Args:
        shape: layers, heads of keys, width of a head.
        bind: makes a binding of the backbone to such a memory.
    """

    def __init__(self, shape: tuple[int, int, int], bind: Callable[[Memory], IOBinding]) -> None:
        super().__init__()
        self._shape = shape
        self._bind = bind
        self._memory: Memory | None = None
        self._binding: IOBinding | None = None

    @property
    def capacity(self) -> int:
        """Tokens that the memory has room for."""
        return 0 if self._memory is None else self._memory.shape[3]

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        layers, heads, size = self._shape
        return layers * 2 * heads * size * 4

    def binding(self, length: int) -> IOBinding:
        """A binding to memory that has room for `length` tokens, those that are held included."""
        if self._binding is None or length > self.capacity:
            self._grow(length)
        assert self._binding is not None  # noqa: S101  for mypy: `_grow` has set it
        return self._binding

    def _grow(self, length: int) -> None:
        layers, heads, size = self._shape
        wanted = -(-length // GRAIN) * GRAIN
        capacity = max(wanted, min(2 * self.capacity, self.capacity + 512))
        # Pages of its own, which go back to the system when nobody holds them.
        pages = mmap(-1, capacity * self.token_bytes)
        grown = np.frombuffer(pages, dtype=np.float32).reshape((layers, 2, heads, capacity, size))
        if self._memory is not None:
            grown[:, :, :, : self.length] = self._memory[:, :, :, : self.length]
        self._memory = grown
        self._binding = self._bind(grown)
