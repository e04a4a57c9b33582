"""Keys and values of one session, with roll-back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAIN = 64
"""Capacity grows in multiples of this many tokens, so that a padded context always fits."""


class SessionKV:
    """Keys and values for the tokens that a model has read in one session.

    Memory is one tensor of shape [layers, 2, kv heads, capacity, head size]. What lies beyond `length` is finite
    garbage that attention masks.

    Attributes:
        tokens: the token ids whose keys and values are held, in order.
    """

    def __init__(self, layers: int, kv_heads: int, head_size: int, like: torch.Tensor) -> None:
        """Hold nothing yet.

        Args:
            layers: how many layers.
            kv_heads: heads of keys and values.
            head_size: width of one head.
            like: a tensor on the device and in the dtype of the model.
        """
        self._shape = (layers, 2, kv_heads, head_size)
        self._like = like
        self._memory = self._allocate(0)
        self._layers = self._views()
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        """How many tokens are held."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self._memory.numel() * self._memory.element_size()

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, each of shape [kv heads, capacity, head size]."""
        return self._layers[index]

    def span(self, begin: int, end: int) -> torch.Tensor:
        """Keys and values of positions `begin` to `end` as [layers, 2, kv heads, end - begin, head size].

        A view; `reserve` may replace what it shows.
        """
        return self._memory[:, :, :, begin:end]

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens, rounded up to the grain; doubles to keep copies rare."""
        capacity = self._memory.shape[3]
        wanted = -(-length // GRAIN) * GRAIN
        if wanted <= capacity:
            return
        grown = self._allocate(max(wanted, min(2 * capacity, capacity + 1024)))
        grown[:, :, :, :capacity] = self._memory
        self._memory = grown
        self._layers = self._views()

    def roll_back(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        del self.tokens[length:]

    def match(self, wanted: Sequence[int]) -> int:
        """Roll back to the longest common prefix with `wanted` and return its length."""
        common = min(len(self.tokens), len(wanted))
        if self.tokens[:common] != list(wanted[:common]):
            common = next(i for i in range(common) if self.tokens[i] != wanted[i])
        self.roll_back(common)
        return common

    def _allocate(self, capacity: int) -> torch.Tensor:
        layers, two, heads, size = self._shape
        return torch.zeros(
            (layers, two, heads, capacity, size), dtype=self._like.dtype, device=self._like.device
        )

    def _views(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(both[0], both[1]) for both in self._memory]
