"""A target with Llama's layers on a CPU: few operations a layer, and the bits of transformers' own code.

Every step rounds where transformers rounds, so a row of logits is what `PackedModel` gives for the same products.
It saves everything around it: joined matrices, weights in the order in which the processor's kernel reads them, and
some forty operations a layer where transformers' modules take six times as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.compact.lora_bank import LoraBank
from flexspec_mq.models.compact.matrices import Plain, Reordered
from flexspec_mq.models.compact.mixed import HoldsHeads, joined
from flexspec_mq.models.compact.tensors import MATRICES
from flexspec_mq.models.head import FullHead, module_shapes
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.batch import PackedBatch
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.shape import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flexspec_mq.models.compact.lora_bank import RowOwners
    from flexspec_mq.models.compact.matrices import Matrix
    from flexspec_mq.models.compact.mixed import Rows
    from flexspec_mq.models.compact.tensors import ExactLayer
    from flexspec_mq.models.head import Head
    from flexspec_mq.models.invariance.product_probe import Products
    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput
    from flexspec_mq.models.shape import Shape

    Banks = dict[str, LoraBank]
    Additions = tuple[Banks, RowOwners]


@dataclass(frozen=True, slots=True)
class _HeldHead:
    """A head that a model holds.

    Attributes:
        norm: weights of the final norm; None is the base's.
        lm_head: LM head; None is the base's.
        layers: layers of its own, from `floor` on; empty for low-rank additions.
        floor: the lowest layer with weights of its own.
    """

    norm: torch.Tensor | None
    lm_head: Matrix | None
    layers: tuple[ExactLayer, ...] = ()
    floor: int = 0


class ExactModel(HoldsHeads):
    """A causal language model that reads several sessions in one forward, as `PackedModel` does.

    Args:
        shape: sizes.
        layers: decoder layers.
        embedding: [vocabulary, width].
        norm: weights of the final norm, [width].
        lm_head: matrix to the logits.
        products: products with weights.
        shapes: shapes of products.
        head_layer: joins the matrices of a layer of a full head.
        head_matrix: prepares the LM head of a head.

    Attributes:
        vocab_size: width of the logits.
        heads: heads of its attention.
    """

    def __init__(
        self,
        shape: Shape,
        layers: Sequence[ExactLayer],
        embedding: torch.Tensor,
        norm: torch.Tensor,
        lm_head: Matrix,
        products: Products,
        shapes: Shapes,
        head_layer: Callable[[FullHead, int], ExactLayer],
        head_matrix: Callable[[torch.Tensor], Matrix],
    ) -> None:
        self.shape = shape
        self.vocab_size = shape.vocab_size
        self.heads = Heads(shape.queries, shape.keys, shape.head)
        self.products = products
        self.shapes = shapes
        self._layers = layers
        self._embedding, self._norm, self._lm_head = embedding, norm, lm_head
        self._head_layer, self._head_matrix = head_layer, head_matrix
        self._like = norm.new_empty(0)
        self._held: dict[str, _HeldHead] = {}
        self._addition = Reordered if shapes.reordered else Plain
        self._layer_banks: dict[int, Banks] = {}
        self._lm_head_bank = LoraBank(shape.width, (shape.vocab_size,), self._addition, self._like)
        scale = self.heads.size**-0.5
        # Scores are scaled after their products. A power of two rounds nothing, so the queries' factors may have it.
        folded = scale if math.frexp(scale)[0] == 0.5 else 1.0
        self._scale = scale / folded
        self._turns = Turns(shape, self._like, scale=folded)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a forward reads, the embedding and heads left out."""
        return sum(layer.nbytes for layer in self._layers) + self._lm_head.nbytes

    def new_kv(self) -> SessionKV:
        """Make empty keys and values for a new session."""
        return SessionKV(len(self._layers), self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def hold(self, name: str, head: Head) -> None:
        """Take a head; heads that are held already keep their bits.

        Args:
            name: name that inputs give.
            head: a head that was read for this model.

        Raises:
            HeadError: the name is taken.
        """
        self._check_free(name)
        norm = None if head.norm is None else head.norm.to(self._like, copy=True)
        whole = head.lm_head if isinstance(head.lm_head, torch.Tensor) else None
        lm_head = None if whole is None else self._head_matrix(whole)
        if isinstance(head, FullHead):
            layers = tuple(self._head_layer(head, index) for index in range(head.floor, len(self._layers)))
            self._held[name] = _HeldHead(norm, lm_head, layers, head.floor)
            return
        try:
            for index, modules in head.layers.items():
                if index not in self._layer_banks:
                    self._layer_banks[index] = self._new_banks()
                for matrix, bank in self._layer_banks[index].items():
                    parts = {i: modules[part] for i, part in enumerate(MATRICES[matrix]) if part in modules}
                    if parts:
                        bank.hold(name, parts)
            if head.lm_head is not None and not isinstance(head.lm_head, torch.Tensor):
                self._lm_head_bank.hold(name, {0: head.lm_head})
            self._held[name] = _HeldHead(norm, lm_head)
        except BaseException:
            self._forget(name)
            raise

    def _new_banks(self) -> Banks:
        """Empty banks for the matrices of a layer."""
        sizes = module_shapes(self.shape)
        return {
            matrix: LoraBank(
                sizes[parts[0]][1], [sizes[part][0] for part in parts], self._addition, self._like
            )
            for matrix, parts in MATRICES.items()
        }

    def _banks(self) -> Iterator[LoraBank]:
        for banks in self._layer_banks.values():
            yield from banks.values()
        yield self._lm_head_bank

    def _forget(self, name: str) -> None:
        self._held.pop(name, None)
        for bank in self._banks():
            bank.drop(name)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, vocabulary], input by input.

        Raises:
            HeadError: an input names a head that is not held.
        """
        if any(model_input.head for model_input in inputs):
            own_layers = {name for name, held in self._held.items() if held.layers}
            own_lm_head = {name for name, held in self._held.items() if held.lm_head is not None}
            mixed = self._arranged(inputs, own_layers, own_lm_head)
            state = self._through_layers(mixed.batch, mixed.body)
            logits = None if mixed.last is None else self._mixed_logits(state[mixed.wanted], mixed.last)
            kept: slice | torch.Tensor = torch.tensor(mixed.kept)
        else:
            batch = PackedBatch.lay_out(inputs, self.shapes)
            state = self._through_layers(batch)
            last = self._normed(state[batch.wanted], self._norm)
            logits = self.shapes.multiply(self._lm_head, last) if batch.wanted else None
            kept = slice(batch.rows)
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return torch.empty((0, self.vocab_size)) if logits is None else logits[kept].float()

    def _mixed_logits(self, state: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Logits of rows of several heads."""

        def norm_of(name: str) -> torch.Tensor:
            norm = self._held[name].norm if name else None
            return self._norm if norm is None else norm

        def lm_head_of(name: str) -> Matrix:
            return (self._held[name].lm_head if name else None) or self._lm_head

        last = joined([self._normed(state[span], norm_of(name)) for span, name in rows.spans])
        logits = joined([self.shapes.multiply(lm_head_of(name), last[lane]) for lane, name in rows.lanes])
        if rows.owners is not None:
            self._lm_head_bank.add(logits, last, rows.owners)
        return logits

    def _through_layers(self, batch: PackedBatch, body: Rows | None = None) -> torch.Tensor:
        """The last hidden state, [rows, width]; `body` says which rows have heads."""
        heads, rows = self.heads, len(batch.ids)
        every = heads.queries + 2 * heads.keys
        state = functional.embedding(torch.tensor(batch.ids), self._embedding)
        cosines, sines = self._turns.at(batch.positions)
        packed = Packed(batch.segments, rows, heads, self.shapes, self._like, stride=every)
        for index in range(len(self._layers)):
            lanes = self._lanes(index, body)
            projected = joined(
                [self._project(_part(state, lane), layer, added) for lane, layer, added in lanes]
            )
            halves = projected.view(rows, every, 2, heads.size // 2)
            turned = (halves * cosines).add_(halves.flip(2).mul_(sines)).view(rows, every, heads.size)
            fresh = turned[:, heads.queries :].view(rows, 2, heads.keys, heads.size).permute(1, 2, 0, 3)
            mixed = packed.attend(index, turned, fresh, self._scale)
            state = joined(
                [
                    self._behind(_part(state, lane), _part(mixed, lane), layer, added)
                    for lane, layer, added in lanes
                ]
            )
        return state

    def _lanes(
        self, index: int, body: Rows | None
    ) -> list[tuple[slice | None, ExactLayer, Additions | None]]:
        """Rows (None is all), the layer that they go through, and their low-rank additions.

        Below the lowest layer that a head has of its own all rows go together.
        """
        base = self._layers[index]
        if body is None:
            return [(None, base, None)]
        banks, owners = self._layer_banks.get(index), body.owners
        additions = None if banks is None or owners is None else (banks, owners)
        floors = {name: self._held[name].floor for _, name in body.lanes if name}
        if index < min(floors.values(), default=len(self._layers)):
            return [(None, base, additions)]
        return [
            (lane, self._held[name].layers[index - floors[name]], None)
            if name and index >= floors[name]
            else (lane, base, None if name else additions)
            for lane, name in body.lanes
        ]

    def _project(self, state: torch.Tensor, layer: ExactLayer, additions: Additions | None) -> torch.Tensor:
        """Queries, keys and values, [rows, heads, head size]."""
        heads = self.heads
        normed = self._normed(state, layer.attention_norm)
        projected = self.shapes.multiply(layer.project, normed)
        _add(additions, "project", projected, normed)
        projected = projected.view(len(state), -1, heads.size)
        if layer.query_norm is None or layer.key_norm is None:
            return projected
        query, key, value = projected.split_with_sizes([heads.queries, heads.keys, heads.keys], dim=1)
        return torch.cat(
            (self._normed(query, layer.query_norm), self._normed(key, layer.key_norm), value), dim=1
        )

    def _behind(
        self, state: torch.Tensor, mixed: torch.Tensor, layer: ExactLayer, additions: Additions | None
    ) -> torch.Tensor:
        """All of a layer behind its attention."""
        merged = self.shapes.multiply(layer.merge, mixed)
        _add(additions, "merge", merged, mixed)
        state = state + merged
        normed = self._normed(state, layer.mlp_norm)
        wide = self.shapes.multiply(layer.widen, normed)
        _add(additions, "widen", wide, normed)
        gate, up = wide.chunk(2, dim=1)
        between = functional.silu(gate).mul_(up)
        out = self.shapes.multiply(layer.narrow, between)
        _add(additions, "narrow", out, between)
        return state + out

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm over the last dimension, rounded before the weights multiply, as transformers does."""
        wide = x.float()
        squares = (wide * wide).sum(dim=-1, keepdim=True).div_(x.shape[-1])
        return (wide * squares.add_(self.shape.epsilon).rsqrt_()).to(x.dtype).mul_(weight)


def _part(x: torch.Tensor, lane: slice | None) -> torch.Tensor:
    return x if lane is None else x[lane]


def _add(additions: Additions | None, matrix: str, out: torch.Tensor, x: torch.Tensor) -> None:
    """Add low-rank additions to a matrix's products."""
    if additions is not None:
        banks, owners = additions
        banks[matrix].add(out, x, owners)
