"""Attention whose result for a query does not depend on what else shares the forward.

Each session's queries attend to that session's keys only. Three rules make a row's bits independent of its
neighbours: the context is padded to a multiple of `context_grain` and masked, so that the softmax always takes the
same path; products have at least `attention_rows` rows, so that they never fall to a matrix-vector kernel; and the
sum over values runs in blocks of `value_block` positions at fixed borders, added in order, where masked positions
add exact zeros. Which numbers are needed depends on the dtype and the machine; `invariance` proves that they suffice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.kv import SessionKV

_MOST_QUERIES = 64
"""Tokens of a session that attend together: a prompt's first ones need not look at all of it."""
_SHORT = 256
"""Positions up to which sessions' KV caches are copied behind one another: at 192 it saves a quarter of the
time of 16 sessions' products, at 512 nothing."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of a model's attention.

    Attributes:
        queries: heads of queries.
        keys: KV heads; divides the heads of queries.
        size: size of one head.
    """

    queries: int
    keys: int
    size: int

    @property
    def group(self) -> int:
        """Heads of queries that share one head of keys."""
        return self.queries // self.keys


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of a session in a packed forward.

    Attributes:
        kv: where its keys and values go; has room for them.
        start: first row in the packed input.
        count: number of rows.
        base: tokens that the session held before.
    """

    kv: SessionKV
    start: int
    count: int
    base: int

    def padded(self, shapes: Shapes) -> int:
        """Length of the padded context."""
        return -(-(self.base + self.count) // shapes.context_grain) * shapes.context_grain

    def cut(self) -> Iterator[Segment]:
        """In pieces of at most `_MOST_QUERIES` tokens."""
        for at in range(0, self.count, _MOST_QUERIES):
            count = min(_MOST_QUERIES, self.count - at)
            yield Segment(self.kv, self.start + at, count, self.base + at)


class Packed:
    """The segments of one forward, with all that is the same in every layer made once.

    Queries are gathered into blocks of [kv heads, rows of a segment, head size], so that each block meets its own
    keys in one product. Everything between the products works on whole groups of segments.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        rows: int,
        heads: Heads,
        shapes: Shapes,
        like: torch.Tensor,
        *,
        stride: int | None = None,
    ) -> None:
        """Lay out the buffers.

        Args:
            segments: at least one.
            rows: rows of the packed input; those behind the last segment are padding, and what comes out for them
                is finite and means nothing.
            heads: heads of the model.
            shapes: padding.
            like: a tensor on the device and in the dtype of the model.
            stride: heads in each row of the queries that `attend` gets, if more than those of queries.
        """
        by_length: dict[int, list[Segment]] = {}
        for piece in (piece for segment in segments for piece in segment.cut()):
            by_length.setdefault(piece.padded(shapes), []).append(piece)
        blocks = [_Block(segment, heads, shapes) for group in by_length.values() for segment in group]
        total = sum(heads.keys * block.rows for block in blocks)
        self._heads = heads
        self._queries = like.new_empty((total, heads.size))
        self._mixed = like.new_empty((total, heads.size))
        row, head = (torch.cat(parts) for parts in zip(*(block.gather() for block in blocks), strict=True))
        scatter = torch.zeros(rows * heads.queries, dtype=torch.long)
        # A padding row repeats a real one, and either may answer for both: they have the same bits.
        scatter[row * heads.queries + head] = torch.arange(total)
        self._gather = (row * (stride or heads.queries) + head).to(like.device)
        self._scatter = scatter.to(like.device)
        self._groups: list[_Group] = []
        self._writes = [
            (slice(s.start, s.start + s.count), s.kv.span(s.base, s.base + s.count).unbind(0))
            for s in segments
        ]
        first = taken = 0
        for padded, group in by_length.items():
            mine = blocks[first : first + len(group)]
            cut = slice(taken, taken + heads.keys * sum(block.rows for block in mine))
            self._groups.append(_Group(mine, padded, shapes, self._queries[cut], self._mixed[cut]))
            first, taken = first + len(group), cut.stop

    def attend(
        self, layer: int, queries: torch.Tensor, fresh: torch.Tensor, scale: float, window: int | None = None
    ) -> torch.Tensor:
        """Store the new keys and values of a layer, and attend.

        Args:
            layer: which.
            queries: [rows, stride, head size], after the position embedding; heads of queries come first in a row.
            fresh: keys and values, [2, kv heads, rows, head size].
            scale: scale of the scores.
            window: positions that a query sees, itself included; None is all.

        Returns:
            [rows, heads x head size].
        """
        for rows, into in self._writes:
            into[layer].copy_(fresh[:, :, rows])
        torch.index_select(queries.reshape(-1, self._heads.size), 0, self._gather, out=self._queries)
        for group in self._groups:
            group.attend(layer, scale, window)
        return self._mixed.index_select(0, self._scatter).view(-1, self._heads.queries * self._heads.size)


class _Block:
    """A segment's queries as rows of products: by kv head, then head in its group, then query."""

    def __init__(self, segment: Segment, heads: Heads, shapes: Shapes) -> None:
        self.segment = segment
        self.heads = heads
        self.used = heads.group * segment.count
        self.rows = max(self.used, shapes.attention_rows)

    def gather(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which row of the input and which head of queries each row is; padding repeats the last one."""
        local = torch.arange(self.rows).clamp_(max=self.used - 1)
        head = torch.arange(self.heads.keys)[:, None] * self.heads.group + local // self.segment.count
        row = self.segment.start + local % self.segment.count
        return row.expand_as(head).flatten(), head.flatten()

    def mask(self, first: int, padded: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """For positions `first` to `padded`, [count, positions]: 0 where a query may look and -inf elsewhere."""
        base, count = self.segment.base, self.segment.count
        seen = torch.arange(first, padded, device=like.device)
        last = torch.arange(base, base + count, device=like.device)[:, None]
        hidden = seen > last
        if window is not None:
            hidden |= seen <= last - window
        return like.new_zeros((count, padded - first)).masked_fill_(hidden, float("-inf"))

    def by_block(self, flat: torch.Tensor) -> torch.Tensor:
        """See rows [kv heads x rows, width] as [kv heads, rows, width]."""
        return flat.view(self.heads.keys, self.rows, flat.shape[1])


class _Group:
    """Segments whose contexts are padded to the same length: one softmax serves them all."""

    def __init__(
        self,
        blocks: Sequence[_Block],
        padded: int,
        shapes: Shapes,
        queries: torch.Tensor,
        mixed: torch.Tensor,
    ) -> None:
        self._blocks = blocks
        self._padded = padded
        self._scores = queries.new_empty((len(queries), padded))
        self._masks: dict[int | None, torch.Tensor] = {}
        sizes = [block.heads.keys * block.rows for block in blocks]
        spans = [
            slice(begin, min(begin + shapes.value_block, padded))
            for begin in range(0, padded, shapes.value_block)
        ]
        self._first: list[tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]] = []
        self._second: list[list[tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]]] = [
            [] for _ in spans
        ]
        cut = (rows.split_with_sizes(sizes) for rows in (queries, self._scores, mixed))
        pieces = zip(blocks, *cut, strict=True)
        for block, query, score, out in pieces:
            context = block.segment.kv.span(0, padded)
            scores, into = block.by_block(score), block.by_block(out)
            self._first.append((block.by_block(query), context[:, 0].transpose(2, 3).unbind(0), scores))
            for span, products in zip(spans, self._second, strict=True):
                products.append((scores[:, :, span], context[:, 1, :, span].unbind(0), into))
        short = padded <= min(_SHORT, shapes.value_block) and len(blocks) > 1
        alike = len({block.rows for block in blocks}) == 1
        self._joint = _Joint(blocks, padded, queries, self._scores, mixed) if short and alike else None
        # One segment's mask is spread over its heads; several are written out.
        self._shape = (-1, blocks[0].segment.count if self._alone else 1, padded)

    @property
    def _alone(self) -> bool:
        return len(self._blocks) == 1 and self._blocks[0].rows == self._blocks[0].used

    def attend(self, layer: int, scale: float, window: int | None) -> None:
        """Fill the mixed values from queries, keys and values."""
        if self._joint is not None:
            self._joint.score(layer)
        else:
            for query, keys, scores in self._first:
                torch.bmm(query, keys[layer], out=scores)
        if scale != 1.0:
            self._scores.mul_(scale)
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        mask = self._masks[window]
        self._scores.view(self._shape)[..., self._padded - mask.shape[-1] :].add_(mask)
        # It computes in float32 and rounds at the end, whatever the dtype.
        torch.softmax(self._scores, dim=-1, out=self._scores)
        if self._joint is not None:
            self._joint.mix(layer)
            return
        for weights, values, into in self._second[0]:
            torch.bmm(weights, values[layer], out=into)
        for products in self._second[1:]:
            for weights, values, into in products:
                into.add_(torch.bmm(weights, values[layer]))

    def _mask(self, window: int | None) -> torch.Tensor:
        """For the last positions, the first of which is the first that some query may not see."""
        first = 0 if window is not None else min(block.segment.base for block in self._blocks) + 1
        if self._alone:
            return self._blocks[0].mask(first, self._padded, window, self._scores)
        rows = []
        for block in self._blocks:
            local = torch.arange(block.rows, device=self._scores.device).clamp_(max=block.used - 1)
            mask = block.mask(first, self._padded, window, self._scores)
            rows.append(mask[local % block.segment.count].repeat(block.heads.keys, 1))
        return torch.cat(rows)[:, None]


class _Joint:
    """Short contexts of several segments of as many rows, copied behind one another: one product for all of them.

    A product of a few rows takes longer to begin than to copy some hundred keys.
    """

    def __init__(self, blocks: Sequence[_Block], padded: int, *rows: torch.Tensor) -> None:
        size = rows[0].shape[1]
        contexts = [block.segment.kv.span(0, padded) for block in blocks]
        self._keys, self._values = (
            list(zip(*(context[:, which].unbind(0) for context in contexts), strict=True)) for which in (0, 1)
        )
        self._queries, self._scores, self._mixed = (
            flat.view(-1, blocks[0].rows, flat.shape[1]) for flat in rows
        )
        self._copy = rows[0].new_empty((len(self._queries), padded, size))

    def score(self, layer: int) -> None:
        """From queries and keys to scores."""
        torch.cat(self._keys[layer], out=self._copy)
        torch.bmm(self._queries, self._copy.transpose(1, 2), out=self._scores)

    def mix(self, layer: int) -> None:
        """From weights and values to mixed values."""
        torch.cat(self._values[layer], out=self._copy)
        torch.bmm(self._scores, self._copy, out=self._mixed)
