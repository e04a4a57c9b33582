"""Target models: rows of several sessions in one forward, some of which may have heads, and padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.heads.manifest import Canary, HeadError
from flexspec_mq.models.head import FullHead, Head
from flexspec_mq.models.invariance.attention import Heads, Segment
from flexspec_mq.models.invariance.lora_bank import COLUMNS, RowOwners
from flexspec_mq.models.invariance.product_probe import Products, counts_within, row_range
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput, to_numpy

if TYPE_CHECKING:
    from flexspec_mq.models.invariance.lora_bank import LoraBank, Make

_CANARY_ROWS = 64
"""Rows of logits at once: those of a long text would take 200 MB."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Heads of the rows of a forward.

    Attributes:
        lanes: rows, padding included, and the head whose own weights they go through; an empty name is the base.
        spans: all rows, in order, cut where another head begins; padding is with those before it.
        owners: owners of the rows with low-rank additions, which are in the first lane; None where there are none.
    """

    lanes: tuple[tuple[slice, str], ...]
    spans: tuple[tuple[slice, str], ...]
    owners: RowOwners | None

    @classmethod
    def join(
        cls,
        inputs: Sequence[tuple[str, int, int]],
        own: Collection[str],
        lanes: Sequence[slice],
        shapes: Shapes,
    ) -> Rows:
        """Join the rows of inputs.

        Args:
            inputs: head, first row and number of rows of each, head by head.
            own: heads whose rows go through weights of their own.
            lanes: rows of the base and of heads with additions, if any, then of each head in `own`.
            shapes: shapes of the additions' products.
        """
        by_head = []
        for name, same in groupby(inputs, key=lambda rows: rows[0]):
            mine = list(same)
            by_head.append((name, mine[0][1], mine[-1][1] + mine[-1][2]))
        starts = [0, *(start for _, start, _ in by_head[1:]), lanes[-1].stop]
        added = [rows for rows in by_head if rows[0] and rows[0] not in own]
        named = {start: name for name, start, _ in by_head}
        return cls(
            tuple((lane, named[lane.start] if named[lane.start] in own else "") for lane in lanes),
            tuple((slice(*ends), name) for ends, (name, _, _) in zip(pairwise(starts), by_head, strict=True)),
            RowOwners(added, shapes) if added else None,
        )


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of a forward: those of one head lie together, those with layers of their own last.

    Attributes:
        ids: token ids, row by row; padding is 0.
        positions: positions of each row in its session's text.
        segments: which rows are whose.
        body: heads of the rows; None where all are the base's.
        wanted: rows that the LM head sees, padding included; those that share one lie together.
        last: heads of these; None where all are the base's.
        kept: rows of the logits that inputs asked for, input by input.
    """

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    body: Rows | None
    wanted: list[int]
    last: Rows | None
    kept: slice | list[int]


class TargetModel(ABC):
    """A causal language model that reads several sessions in one forward, and holds heads beside its base.

    Args:
        layers: how many.
        vocab_size: width of the logits, an attribute as the next three.
        heads: heads of its attention.
        products: products with weights.
        shapes: shapes of products.
        like: a tensor on the device and in the dtype of the model.
        make_addition: prepares a matrix of a low-rank addition.
    """

    def __init__(
        self,
        layers: int,
        vocab_size: int,
        heads: Heads,
        products: Products,
        shapes: Shapes,
        like: torch.Tensor,
        make_addition: Make,
    ) -> None:
        self.vocab_size, self.heads = vocab_size, heads
        self.products, self.shapes = products, shapes
        self._like = like
        self._make_addition = make_addition
        self._layer_count = layers
        self._held: dict[str, tuple[bool, bool]] = {}
        """By name of a head: whether it has layers of its own, and an LM head of its own."""

    def new_kv(self) -> SessionKV:
        """Empty KV cache for a new session."""
        return SessionKV(self._layer_count, self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            Logits of shape [sum of rows, vocabulary], input by input, on the model's device and in its dtype.

        Raises:
            HeadError: an input names a head that is not held.
            LocalProtocolError: the KV cache of one head would be read on with another.
        """
        batch = self._lay_out(inputs)
        logits = self._logits(batch)
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return logits[batch.kept]

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the heads that the model holds."""
        return tuple(self._held)

    @torch.inference_mode()
    def hold(self, name: str, head: Head) -> None:
        """Take a head; heads that are held already keep their bits.

        Args:
            name: name that inputs give.
            head: head that was read for this model.

        Raises:
            HeadError: the name is taken, or the head does not fit.
        """
        if not name or name in self._held:
            raise HeadError(
                f"a head named {name!r} is held already", hint="drop it first, or take another name"
            )
        try:
            self._take(name, head)
        except BaseException:
            self._forget(name)
            raise
        self._held[name] = isinstance(head, FullHead), isinstance(head.lm_head, torch.Tensor)

    @torch.inference_mode()
    def drop(self, name: str) -> None:
        """Forget a head; no session may use it any more.

        Raises:
            HeadError: it is not held.
        """
        self._check_held(name)
        del self._held[name]
        self._forget(name)

    def compare_head(self, name: str) -> tuple[int, int]:
        """Compare a head's additions' products at all places, with sums that cancel.

        Returns:
            Rows compared, and rows with other bits.
        """
        self._check_held(name)
        of_each_kind = {bank.compared: bank for bank in self._banks() if name in bank.owners}
        counts = counts_within(self._addition_shapes.min_rows, self._addition_shapes.max_rows)
        results = [bank.compare(counts) for bank in of_each_kind.values()]
        return sum(rows for rows, _ in results), sum(differing for _, differing in results)

    @abstractmethod
    def _logits(self, batch: RowBatch) -> torch.Tensor:
        """Logits of the rows that are wanted."""

    @abstractmethod
    def _take(self, name: str, head: Head) -> None:
        """Hold a head's weights."""

    @abstractmethod
    def _banks(self) -> Iterable[LoraBank]:
        """The low-rank additions to all matrices."""

    def _forget(self, name: str) -> None:
        """Drop a head's weights, of which parts may be missing."""
        for bank in self._banks():
            bank.drop(name)

    def _check_held(self, name: str) -> None:
        if name not in self._held:
            raise HeadError(f"no head named {name!r} is held", hint="hold it before sessions use it")

    @cached_property
    def _addition_shapes(self) -> Shapes:
        """Shapes that products of low-rank additions need on this machine, whichever heads are held."""
        kinds = {
            kind
            for width, outputs, _ in self.products.kinds
            for columns in (COLUMNS[0], COLUMNS[-1])
            for kind in ((width, columns, False), (columns, outputs, False))
        }
        products = Products(tuple(sorted(kinds)), self._make_addition)
        least, most = row_range(products, self._like) or (1, None)
        return replace(self.shapes, min_rows=least, max_rows=most)

    def _lay_out(self, inputs: Sequence[ModelInput]) -> RowBatch:
        """Lay out the rows of a forward, and make room for its tokens in the KV caches."""
        shapes, names = self.shapes, ["", *self._held]
        heads = [model_input.head for model_input in inputs]
        for name in filter(None, heads):
            self._check_held(name)
        own_layers = {name for name, (layers, _) in self._held.items() if layers}
        own_lm_heads = {name for name, (_, lm_head) in self._held.items() if lm_head}
        order = sorted(range(len(inputs)), key=lambda i: (heads[i] in own_layers, names.index(heads[i])))
        ids: list[int] = []
        positions: list[int] = []
        segments: dict[int, Segment] = {}
        lanes: list[slice] = []
        for _, same in groupby(order, lambda i: heads[i] in own_layers and heads[i]):
            begin = len(ids)
            for i in same:
                segment = segments[i] = _segment(inputs[i], len(ids))
                ids += inputs[i].tokens
                positions += range(segment.base, segment.base + segment.count)
            padding = [0] * (_lane(begin, len(ids), shapes, last=len(segments) == len(order)) - len(ids))
            ids += padding
            positions += padding
            lanes.append(slice(begin, len(ids)))
        asked = sorted(
            (i for i in order if inputs[i].rows),
            key=lambda i: (heads[i] in own_lm_heads, names.index(heads[i])),
        )
        wanted: list[int] = []
        last_lanes: list[slice] = []
        answers: dict[int, range] = {}
        for _, same in groupby(asked, lambda i: heads[i] in own_lm_heads and heads[i]):
            begin = len(wanted)
            for i in same:
                end, rows = segments[i].start + segments[i].count, inputs[i].rows
                answers[i] = range(len(wanted), len(wanted) + rows)
                wanted += range(end - rows, end)
            count = len(wanted) - begin
            wanted += wanted[begin : begin + 1] * (shapes.padded(count) - count)
            last_lanes.append(slice(begin, len(wanted)))
        placed = list(segments.values())
        if not any(heads):
            rows = sum(model_input.rows for model_input in inputs)
            return RowBatch(ids, positions, placed, None, wanted, None, slice(rows))
        body = [(heads[i], segments[i].start, segments[i].count) for i in order]
        tail = [(heads[i], rows.start, len(rows)) for i, rows in answers.items()]
        added = self._addition_shapes
        return RowBatch(
            ids,
            positions,
            placed,
            Rows.join(body, own_layers, lanes, added),
            wanted,
            Rows.join(tail, own_lm_heads, last_lanes, added) if tail else None,
            [row for i in sorted(answers) for row in answers[i]],
        )


def _segment(model_input: ModelInput, start: int) -> Segment:
    """Rows of an input from `start` on, with room for them in its KV cache.

    Raises:
        LocalProtocolError: the KV cache of one head would be read on with another.
    """
    kv, count = model_input.kv, len(model_input.tokens)
    if kv.length and kv.head != model_input.head:
        raise LocalProtocolError(f"the KV cache of head {kv.head!r} was given to head {model_input.head!r}")
    kv.head = model_input.head
    kv.reserve(kv.length + count)
    return Segment(kv, start, count, kv.length)


def _lane(begin: int, end: int, shapes: Shapes, *, last: bool) -> int:
    """End of a lane, such that its products have enough rows, and behind the last one those of all lanes too."""
    count = shapes.padded(end - begin)
    while last and shapes.padded(begin + count) != begin + count:
        count = shapes.padded(count + 1)
    return begin + count


def joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of all pieces behind one another."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def canary_share(model: TargetModel, head: str, canaries: Sequence[Canary]) -> float:
    """Share of the canaries' tokens that are the likeliest ones behind what precedes them.

    Args:
        model: model that holds the head.
        head: name of the head; empty is the base.
        canaries: canaries of its manifest; none give 1.

    Raises:
        HeadError: a canary has ids that the model does not have.
    """
    right = 0
    for canary in canaries:
        if max(*canary.prompt, *canary.text) >= model.vocab_size:
            raise HeadError(
                f"a canary has ids beyond the model's {model.vocab_size}", hint="the head is of another base"
            )
        kv = model.new_kv()
        read = [*canary.prompt, *canary.text[:-1]]
        if len(canary.prompt) > 1:
            model.forward([ModelInput(kv, read[: len(canary.prompt) - 1], 0, head)])
        for begin in range(0, len(canary.text), _CANARY_ROWS):
            text = canary.text[begin : begin + _CANARY_ROWS]
            tokens = read[kv.length : kv.length + len(text)]
            logits = to_numpy(model.forward([ModelInput(kv, tokens, len(text), head)]))
            right += int((logits.argmax(axis=1) == text).sum())
    total = sum(len(canary.text) for canary in canaries)
    return right / total if total else 1.0
