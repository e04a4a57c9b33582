"""Rotary positions (Su et al., arXiv 2104.09864) as one table of factors for queries, keys and values together.

Computed in float32 in the order of transformers' own code, so that the bits are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


_KINDS = ("default", "linear", "llama3")
"""Ways of stretching contexts, by transformers' names."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """How fast each pair of numbers of a head turns.

    Attributes:
        speeds: radians per position, one per pair: half as many as a head is wide.
    """

    speeds: tuple[float, ...]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], head: int) -> Rotary | None:
        """From a configuration's parameters of rotary positions; None when they are of a kind not known here.

        Args:
            parameters: as transformers has them.
            head: width of one head.
        """
        kind = parameters.get("rope_type", "default")
        if kind not in _KINDS or float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
            return None
        exponents = torch.arange(0, head, 2, dtype=torch.int64).float() / head
        speeds: torch.Tensor = 1.0 / (float(parameters["rope_theta"]) ** exponents)
        if kind == "linear":
            speeds /= float(parameters["factor"])
        if kind == "llama3":
            speeds = _llama3(speeds, parameters)
        return cls(tuple(speeds.tolist()))

    def table(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions `begin` to `end`, each float32 [positions, half a head]."""
        angles = torch.arange(begin, end)[:, None].float() * torch.tensor(self.speeds)
        return angles.cos(), angles.sin()


def _llama3(speeds: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Llama 3.1's stretching: slow pairs turn slower by the factor, quick ones as before, a ramp in between."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    original = parameters["original_max_position_embeddings"]
    waves = 2 * math.pi / speeds
    slow, quick = waves > original / low, waves < original / high
    stretched = torch.where(slow, speeds / factor, speeds)
    share = (original / waves - low) / (high - low)
    ramp = (1 - share) * stretched / factor + share * stretched
    return torch.where(~quick & ~slow, ramp, stretched)


class Turns:
    """Factors for rows of [queries, keys, values] heads, grown as contexts grow.

    A row x = (a, b) of a query or key becomes (a·cos - b·sin, b·cos + a·sin), which is x·c + swap(x)·s. Values
    have c = 1 and s = 0, so that the three need no cutting, and a scale of the queries is in their factors.
    """

    def __init__(
        self, rotary: Rotary, heads: tuple[int, int], like: torch.Tensor, *, scale: float | None = None
    ) -> None:
        """Hold nothing yet.

        Args:
            rotary: how positions turn the model's queries and keys.
            heads: heads of queries, and of keys.
            like: a tensor on the device and in the dtype of the model.
            scale: scale of the queries; by default that of the scores.
        """
        half = len(rotary.speeds)
        self._scale = 1.0 / math.sqrt(2 * half) if scale is None else scale
        self._rotary = rotary
        self._heads = heads
        self._like = like
        self._straight = like.new_empty((0, 3, 1, half)), like.new_empty((0, 3, 2, half))
        counts = torch.tensor([heads[0], heads[1], heads[1]])
        self._spread = torch.repeat_interleave(torch.arange(3), counts)

    def at(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors c and s: [rows, heads, 1, half a head] and [rows, heads, 2, half a head]."""
        most = max(positions) + 1
        if most > len(self._straight[0]):
            self._grow(-(-most // 1024) * 1024)
        cosines, sines = self._straight
        first, count = positions[0], len(positions)
        if count == 1:
            rows = cosines[first : first + count], sines[first : first + count]
        else:
            index = torch.tensor(positions)
            rows = cosines[index], sines[index]
        return rows[0].index_select(1, self._spread), rows[1].index_select(1, self._spread)

    def _grow(self, end: int) -> None:
        cosines, sines = self._rotary.table(0, end)
        scale = self._scale
        signed = torch.stack((-sines, sines), dim=1)
        c = torch.stack((cosines * scale, cosines, torch.ones_like(cosines)), dim=1)
        s = torch.stack((signed * scale, signed, torch.zeros_like(signed)), dim=1)
        self._straight = c[:, :, None].to(self._like), s.to(self._like)
