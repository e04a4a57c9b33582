"""KV cache of one session and the tokens that it stands for, with roll-back; torch is needed for the cache alone."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

GRAIN = 64
"""Capacity grows in multiples of this many tokens, so that a padded context always fits."""


class ReadTokens:
    """The tokens that a model has read in one session; the memory behind them is a subclass's.

    Attributes:
        tokens: their ids, in order.
        capacity: tokens that the memory has room for.
    """

    capacity: int

    def __init__(self) -> None:
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        """How many tokens are held."""
        return len(self.tokens)

    def roll_back(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        del self.tokens[length:]

    def common(self, wanted: Sequence[int]) -> int:
        """Length of the longest common prefix with `wanted`."""
        common = min(len(self.tokens), len(wanted))
        if self.tokens[:common] != list(wanted[:common]):
            common = next(i for i in range(common) if self.tokens[i] != wanted[i])
        return common

    def match(self, wanted: Sequence[int]) -> int:
        """Roll back to the longest common prefix with `wanted` and return its length."""
        common = self.common(wanted)
        self.roll_back(common)
        return common


class SessionKV(ReadTokens):
    """KV cache of the tokens that a model has read in one session.

    Memory is one tensor of shape [layers, 2, kv heads, capacity, head size]. Beyond `length` lies finite
    garbage that attention masks.

    Attributes:
        head: name of the head that made them; empty is the base.
    """

    def __init__(self, layers: int, kv_heads: int, head_size: int, like: torch.Tensor) -> None:
        """Hold nothing yet; `like` is a tensor on the device and in the dtype of the model."""
        super().__init__()
        self._shape = (layers, 2, kv_heads, head_size)
        self._like = like
        self.head = ""
        self._memory = self._allocate(0)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self._memory.numel() * self._memory.element_size()

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """Tokens that the memory has room for."""
        return self._memory.shape[3]

    @property
    def token_bytes(self) -> int:
        """Bytes of KV cache that one token takes."""
        layers, two, heads, size = self._shape
        return layers * two * heads * size * self._like.element_size()

    def grown(self, length: int) -> int:
        """The capacity that `reserve` would leave behind."""
        return max(self.capacity, -(-length // GRAIN) * GRAIN)

    def span(self, begin: int, end: int) -> torch.Tensor:
        """Keys and values of positions `begin` to `end` as [layers, 2, kv heads, end - begin, head size].

        A view; `reserve` may replace what it shows.
        """
        return self._memory[:, :, :, begin:end]

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens, those held included, rounded up to the grain and no more.

        A product with keys that lie behind one another without gaps needs no copy of them, which costs more in one
        forward than growing costs in all. While it copies, the old memory and the new one are both held.
        """
        capacity, wanted = self.capacity, self.grown(length)
        if wanted == capacity:
            return
        grown = self._allocate(wanted)
        grown[:, :, :, :capacity] = self._memory
        self._memory = grown

    def branch(self, length: int) -> SessionKV:
        """A copy of the first tokens, `length` of them if so many are held, with room for a text like this one.

        To grow it soon would cost as much again.
        """
        layers, _, heads, size = self._shape
        made = type(self)(layers, heads, size, self._like)
        made.head, made.tokens = self.head, self.tokens[:length]
        made.reserve(min(self.capacity, 2 * made.length))
        made.span(0, made.length)[:] = self.span(0, made.length)
        return made

    def give_back(self) -> None:
        """Forget all tokens and hold no memory."""
        self.tokens = []
        self._memory = self._allocate(0)

    def _allocate(self, capacity: int) -> torch.Tensor:
        """Zeros. On the CPU they are pages of their own, which go back to the system when nobody holds them.

        From the allocator's heap they would come interleaved with what forwards need for a moment, and a daemon
        that opens and ends sessions for days would grow by the holes between.
        """
        import torch

        layers, two, heads, size = self._shape
        shape = (layers, two, heads, capacity, size)
        if self._like.device.type != "cpu" or not capacity:
            return torch.zeros(shape, dtype=self._like.dtype, device=self._like.device)
        pages = mmap(-1, capacity * self.token_bytes)
        return torch.frombuffer(pages, dtype=self._like.dtype).view(shape)
