"""Forwards in which rows have different heads: who owns which rows, and what models that hold heads share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import torch

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.compact.lora_bank import RowOwners, compare_banks, shapes_of_additions
from flexspec_mq.models.invariance.batch import PackedBatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from flexspec_mq.models.compact.lora_bank import LoraBank, Make
    from flexspec_mq.models.invariance.product_probe import Products
    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput


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
            RowOwners.from_spans(added, shapes) if added else None,
        )


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """A forward in which some rows have heads: those of one head lie together, those with own layers last.

    Attributes:
        batch: all rows.
        body: heads of its rows.
        wanted: rows that the LM head sees, padding included; those that share one lie together.
        last: heads of these; None where no logits are wanted.
        kept: rows of the logits, input by input.
    """

    batch: PackedBatch
    body: Rows
    wanted: list[int]
    last: Rows | None
    kept: list[int]

    @classmethod
    def lay_out(
        cls,
        inputs: Sequence[ModelInput],
        names: Sequence[str],
        own: tuple[Collection[str], Collection[str]],
        shapes: Shapes,
        added: Shapes,
    ) -> MixedBatch:
        """Lay out the rows.

        Args:
            inputs: at most one per session.
            names: the base's empty one, and those of all heads that are held.
            own: heads with layers of their own, and heads with an LM head of their own.
            shapes: shapes of the model's products.
            added: shapes of the additions' products.
        """
        own_layers, own_lm_head = own
        heads = [model_input.head for model_input in inputs]
        order = sorted(range(len(inputs)), key=lambda i: (heads[i] in own_layers, names.index(heads[i])))
        counts = [
            len(list(same)) for _, same in groupby(order, lambda i: heads[i] in own_layers and heads[i])
        ]
        batch = PackedBatch.lay_out([inputs[i] for i in order], shapes, counts)
        segments = dict(zip(order, batch.segments, strict=True))
        body = [(heads[i], segments[i].start, segments[i].count) for i in order]
        ends = sorted(
            (i for i in order if inputs[i].rows),
            key=lambda i: (heads[i] in own_lm_head, names.index(heads[i])),
        )
        wanted: list[int] = []
        lanes: list[slice] = []
        answers: dict[int, range] = {}
        for _, same in groupby(ends, lambda i: heads[i] in own_lm_head and heads[i]):
            begin = len(wanted)
            for i in same:
                end, rows = segments[i].start + segments[i].count, inputs[i].rows
                answers[i] = range(len(wanted), len(wanted) + rows)
                wanted += range(end - rows, end)
            count = len(wanted) - begin
            wanted += wanted[begin : begin + 1] * (shapes.padded(count) - count)
            lanes.append(slice(begin, len(wanted)))
        tail = [(heads[i], rows.start, len(rows)) for i, rows in answers.items()]
        return cls(
            batch,
            Rows.join(body, own_layers, batch.lanes, added),
            wanted,
            Rows.join(tail, own_lm_head, lanes, added) if tail else None,
            [row for i in sorted(answers) for row in answers[i]],
        )


class HoldsHeads(ABC):
    """A model that holds heads beside its base.

    Attributes:
        products: products with weights.
        shapes: shapes of products.
    """

    products: Products
    shapes: Shapes
    _like: torch.Tensor
    _held: dict[str, Any]
    _addition: Make

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the heads that the model holds."""
        return tuple(self._held)

    @torch.inference_mode()
    def drop(self, name: str) -> None:
        """Forget a head; no session may use it any more.

        Raises:
            HeadError: it is not held.
        """
        self._check_held(name)
        self._forget(name)

    def compare_head(self, name: str) -> tuple[int, int]:
        """Compare a head's additions' products at all places, with sums that cancel.

        Returns:
            Rows compared, and rows with other bits.
        """
        self._check_held(name)
        return compare_banks([bank for bank in self._banks() if name in bank.owners], self._added)

    @abstractmethod
    def _banks(self) -> Iterable[LoraBank]:
        """The low-rank additions to all matrices."""

    @abstractmethod
    def _forget(self, name: str) -> None:
        """Drop a head, of which parts may be missing."""

    @cached_property
    def _added(self) -> Shapes:
        """Shapes of the additions' products."""
        matrices = {(width, outputs) for width, outputs, _ in self.products.kinds}
        return shapes_of_additions(matrices, self._addition, self._like, self.shapes)

    def _arranged(
        self, inputs: Sequence[ModelInput], own_layers: Collection[str], own_lm_head: Collection[str]
    ) -> MixedBatch:
        for model_input in inputs:
            if model_input.head:
                self._check_held(model_input.head)
        return MixedBatch.lay_out(
            inputs, ["", *self._held], (own_layers, own_lm_head), self.shapes, self._added
        )

    def _check_free(self, name: str) -> None:
        if not name or name in self._held:
            raise HeadError(
                f"a head named {name!r} is held already", hint="drop it first, or take another name"
            )

    def _check_held(self, name: str) -> None:
        if name not in self._held:
            raise HeadError(f"no head named {name!r} is held", hint="hold it before sessions use it")


def joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of all pieces behind one another."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
