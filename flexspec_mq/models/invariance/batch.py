"""The rows of one forward: tokens of several sessions behind one another, and padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.models.invariance.attention import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput


@dataclass(frozen=True, slots=True)
class Batch:
    """What a forward reads.

    Attributes:
        ids: token ids, row by row; padding is 0.
        positions: of each row in its session's text.
        segments: which rows are whose.
        wanted: rows whose logits are wanted, padded too; empty where none are.
        rows: how many of these are no padding.
    """

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    wanted: list[int]
    rows: int

    @classmethod
    def of(cls, inputs: Sequence[ModelInput], shapes: Shapes) -> Batch:
        """Lay out the rows, and make room for the keys and values of their tokens.

        Args:
            inputs: at most one per session.
            shapes: padding.
        """
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        segments: list[Segment] = []
        for model_input in inputs:
            base, count = model_input.kv.length, len(model_input.tokens)
            model_input.kv.reserve(base + count)
            segments.append(Segment(model_input.kv, len(ids), count, base))
            ids += model_input.tokens
            positions += range(base, base + count)
            wanted += range(len(ids) - model_input.rows, len(ids))
        padding = [0] * (shapes.padded(len(ids)) - len(ids))
        rows = len(wanted)
        wanted += wanted[:1] * (shapes.padded(rows) - rows)
        return cls(ids + padding, positions + padding, segments, wanted, rows)
