"""The rows of one forward: tokens of several sessions behind one another, and padding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.models.invariance.attention import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows that a forward reads.

    Attributes:
        ids: token ids, row by row; padding is 0.
        positions: positions of each row in its session's text.
        segments: which rows are whose.
        wanted: rows whose logits are wanted, padded too; empty where none are.
        rows: how many of these are no padding.
        lanes: rows that go through weights of their own, padding included.
    """

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    wanted: list[int]
    rows: int
    lanes: list[slice]

    @classmethod
    def lay_out(cls, inputs: Sequence[ModelInput], shapes: Shapes, lanes: Sequence[int] = ()) -> PackedBatch:
        """Lay out the rows, and make room for the keys and values of their tokens.

        Args:
            inputs: at most one per session.
            shapes: padding.
            lanes: how many inputs each lane has, in their order; none is one lane for all.

        Raises:
            LocalProtocolError: keys and values of one head would be read on with another.
        """
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        segments: list[Segment] = []
        ends = set(accumulate(lanes))
        borders = [0]
        for place, model_input in enumerate(inputs, 1):
            base, count = model_input.kv.length, len(model_input.tokens)
            if base and model_input.kv.head != model_input.head:
                raise LocalProtocolError(
                    f"keys and values of head {model_input.kv.head!r} were given to head {model_input.head!r}"
                )
            model_input.kv.head = model_input.head
            model_input.kv.reserve(base + count)
            segments.append(Segment(model_input.kv, len(ids), count, base))
            ids += model_input.tokens
            positions += range(base, base + count)
            wanted += range(len(ids) - model_input.rows, len(ids))
            if place == len(inputs) or place in ends:
                count = _lane(borders[-1], len(ids), shapes, last=place == len(inputs))
                padding = [0] * (count - (len(ids) - borders[-1]))
                ids += padding
                positions += padding
                borders.append(len(ids))
        rows = len(wanted)
        wanted += wanted[:1] * (shapes.padded(rows) - rows)
        return cls(ids, positions, segments, wanted, rows, [slice(*pair) for pair in pairwise(borders)])


def _lane(begin: int, end: int, shapes: Shapes, *, last: bool) -> int:
    """Rows of a lane, such that its products have enough, and behind the last one those of all lanes too."""
    count = shapes.padded(end - begin)
    while last and shapes.padded(begin + count) != begin + count:
        count = shapes.padded(count + 1)
    return count
