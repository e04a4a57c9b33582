"""Rotary positions (Su et al., arXiv 2104.09864) as one table of factors for queries, keys and values together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Rotary:
    """How fast each pair of numbers of a head turns.

    Attributes:
        speeds: radians per position, one per pair: half as many as a head is wide.
    """

    speeds: tuple[float, ...]

    @classmethod
    def of(cls, config: Any, head: int) -> Rotary:
        """From a configuration of transformers.

        Args:
            config: of the text model.
            head: width of one head.

        Raises:
            ModelError: a way of stretching contexts that is not known here.
        """
        parameters: Mapping[str, Any] = config.rope_parameters
        kind = parameters.get("rope_type", "default")
        if float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
            kind = "partial"
        base = float(parameters["rope_theta"])
        speeds = [base ** (-2.0 * pair / head) for pair in range(head // 2)]
        if kind == "linear":
            speeds = [speed / float(parameters["factor"]) for speed in speeds]
        elif kind == "llama3":
            speeds = [_llama3(speed, parameters) for speed in speeds]
        elif kind != "default":
            raise ModelError(
                f"the compact draft engine does not know rotary positions of type {kind!r}",
                hint="--draft-engine transformers knows them",
            )
        return cls(tuple(speeds))

    def table(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions `begin` to `end`, each float32 [positions, half a head]."""
        at = torch.arange(begin, end, dtype=torch.float64)[:, None]
        angles = at * torch.tensor(self.speeds, dtype=torch.float64)
        return angles.cos().float(), angles.sin().float()


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
