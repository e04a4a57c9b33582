"""Rotary positions (Su et al., arXiv 2104.09864) as one table of factors for queries, keys and values together."""

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
    def of(cls, parameters: Mapping[str, Any], head: int) -> Rotary | None:
        """From a configuration's parameters of rotary positions; None when they are of a kind not known here.

        Args:
            parameters: as transformers has them.
            head: width of one head.
        """
        kind = parameters.get("rope_type", "default")
        if kind not in _KINDS or float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
            return None
        base = float(parameters["rope_theta"])
        speeds = [base ** (-2.0 * pair / head) for pair in range(head // 2)]
        if kind == "linear":
            speeds = [speed / float(parameters["factor"]) for speed in speeds]
        if kind == "llama3":
            speeds = [_llama3(speed, parameters) for speed in speeds]
        return cls(tuple(speeds))

    def table(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions `begin` to `end`, each float32 [positions, half a head]."""
        at = torch.arange(begin, end, dtype=torch.float64)[:, None]
        angles = at * torch.tensor(self.speeds, dtype=torch.float64)
        return angles.cos().float(), angles.sin().float()


def _llama3(speed: float, parameters: Mapping[str, Any]) -> float:
    """Llama 3.1's stretching: slow pairs turn slower by the factor, quick ones as before, a ramp in between."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    rounds = float(parameters["original_max_position_embeddings"]) * speed / (2.0 * math.pi)
    share = min(1.0, max(0.0, (rounds - low) / (high - low)))
    return share * speed + (1.0 - share) * speed / factor


class Turns:
    """Factors for rows of [queries, keys, values] heads, grown as contexts grow.

    A row x = (a, b) of a query or key becomes (a·cos - b·sin, b·cos + a·sin), which is x·c + swap(x)·s. Values
    have c = 1 and s = 0, so that the three need no cutting, and the scale of the scores is in the queries' factors.
    """

    def __init__(self, rotary: Rotary, heads: tuple[int, int], like: torch.Tensor) -> None:
        """Hold nothing yet.

        Args:
            rotary: of the model.
            heads: of queries, and of keys.
            like: a tensor on the device and in the dtype of the model.
        """
        self._rotary = rotary
        self._heads = heads
        self._like = like
        half = len(rotary.speeds)
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
        half = cosines.shape[1]
        scale = 1.0 / math.sqrt(2 * half)
        signed = torch.stack((-sines, sines), dim=1)
        c = torch.stack((cosines * scale, cosines, torch.ones_like(cosines)), dim=1)
        s = torch.stack((signed * scale, signed, torch.zeros_like(signed)), dim=1)
        self._straight = c[:, :, None].to(self._like), s.to(self._like)
