"""A target with Llama's layers: few operations a layer, and the bits of transformers' own code.

With its own weights every step rounds where transformers rounds, so a row of logits is what `PackedModel` gives for the
same products. Around integers nothing is rounded but attention. It saves everything around products: joined matrices,
weights in the order in which the processor's kernel reads them, and some forty operations a layer where transformers'
modules take six times as many.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch.nn import functional

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.compact.tensors import MATRICES, ExactLayer, Make, layer_prefix, read_exact_layer
from flexspec_mq.models.head import FullHead, Head, module_shapes
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.lora_bank import LoraBank, RowOwners
from flexspec_mq.models.invariance.product_probe import Products
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.invariance.target import RowBatch, Rows, TargetModel, joined
from flexspec_mq.models.matrices import Matrix, Plain, Reordered
from flexspec_mq.models.shape import Shape, Turns

Banks = dict[str, LoraBank]
Additions = tuple[Banks, RowOwners]
Embed = Callable[[list[int]], torch.Tensor]
"""Looks up the embedding's rows of token ids, [ids, width]."""


class ExactModel(TargetModel):
    """A `TargetModel` on joined matrices.

    Args:
        shape: sizes.
        layers: decoder layers.
        embed: the embedding.
        norm: weights of the final norm, [width], in the dtype of hidden states.
        lm_head: matrix to the logits.
        products: products with weights.
        shapes: shapes of products.
        make: prepares a matrix of the model, or of a full head.
        names: names of the base's tensors, which those of a full head must be.
        like: a tensor in the dtype of attention and the KV cache; by default that of hidden states.
    """

    def __init__(
        self,
        shape: Shape,
        layers: Sequence[ExactLayer],
        embed: Embed,
        norm: torch.Tensor,
        lm_head: Matrix,
        products: Products,
        shapes: Shapes,
        make: Make,
        names: Collection[str],
        like: torch.Tensor | None = None,
    ) -> None:
        heads = Heads(shape.queries, shape.keys, shape.head)
        like = norm.new_empty(0) if like is None else like
        addition = Reordered if shapes.reordered else Plain
        super().__init__(shape.layers, shape.vocab_size, heads, products, shapes, like, addition)
        self.shape = shape
        self._layers = layers
        self._embed, self._norm, self._lm_head = embed, norm, lm_head
        self._make, self._names = make, names
        # By name of a head: its final norm and LM head, and its lowest layer with all from there on.
        self._norms: dict[str, torch.Tensor] = {}
        self._lm_heads: dict[str, Matrix] = {}
        self._upper_layers: dict[str, tuple[int, list[ExactLayer]]] = {}
        self._layer_banks = [self._new_banks() for _ in layers]
        self._lm_head_bank = LoraBank(shape.width, (shape.vocab_size,), self._make_addition, self._like)
        scale = self.heads.size**-0.5
        # Scores are scaled after their products. A power of two rounds nothing, so the queries' factors may have it.
        folded = scale if math.frexp(scale)[0] == 0.5 else 1.0
        self._scale = scale / folded
        self._turns = Turns(shape, self._like, scale=folded)

    def _take(self, name: str, head: Head) -> None:
        if head.norm is not None:
            self._norms[name] = head.norm.to(self._norm, copy=True)
        if isinstance(head.lm_head, torch.Tensor):
            self._lm_heads[name] = self._make(head.lm_head, None)
        elif head.lm_head is not None:
            self._lm_head_bank.hold(name, {0: head.lm_head})
        if isinstance(head, FullHead):
            self._check_names(head)
            layers = [
                read_exact_layer(head, index, self.shape, self._make, self._norm)
                for index in range(head.floor, len(self._layers))
            ]
            self._upper_layers[name] = head.floor, layers
            return
        for index, modules in head.layers.items():
            for matrix, bank in self._layer_banks[index].items():
                parts = {i: modules[part] for i, part in enumerate(MATRICES[matrix]) if part in modules}
                if parts:
                    bank.hold(name, parts)

    def _check_names(self, head: FullHead) -> None:
        """Refuse a head whose tensors of layers are not those that the base has there.

        Raises:
            HeadError: naming one that is missing, or that the base does not have.
        """
        prefixes = tuple(layer_prefix(index) for index in range(head.floor, len(self._layers)))
        theirs = {name for name in head.tensors if name.startswith(prefixes)}
        ours = {name for name in self._names if name.startswith(prefixes)}
        odd = sorted(name for name in theirs ^ ours if "rotary_emb" not in name)
        if odd:
            what = "has" if odd[0] in theirs else "lacks"
            raise HeadError(
                f"the head {what} {odd[0]}, unlike the base", hint="the head was made for another base"
            )

    def _new_banks(self) -> Banks:
        """Empty banks for the matrices of a layer."""
        sizes = module_shapes(self.shape)
        return {
            matrix: LoraBank(
                sizes[parts[0]][1], [sizes[part][0] for part in parts], self._make_addition, self._like
            )
            for matrix, parts in MATRICES.items()
        }

    def _banks(self) -> Iterator[LoraBank]:
        for banks in self._layer_banks:
            yield from banks.values()
        yield self._lm_head_bank

    def _forget(self, name: str) -> None:
        super()._forget(name)
        for own in (self._norms, self._lm_heads, self._upper_layers):
            own.pop(name, None)

    def _logits(self, batch: RowBatch) -> torch.Tensor:
        state = self._through_layers(batch)
        if not batch.wanted:
            return state.new_empty((0, self.vocab_size))
        state, rows = state[batch.wanted], batch.last
        if rows is None:
            return self.shapes.multiply(self._lm_head, self._normed(state, self._norm))
        last = joined(
            [self._normed(state[span], self._norms.get(name, self._norm)) for span, name in rows.spans]
        )
        logits = joined(
            [
                self.shapes.multiply(self._lm_heads.get(name, self._lm_head), last[lane])
                for lane, name in rows.lanes
            ]
        )
        if rows.owners is not None:
            self._lm_head_bank.add(logits, last, rows.owners)
        return logits

    def _through_layers(self, batch: RowBatch) -> torch.Tensor:
        """The last hidden state, [rows, width]."""
        heads, rows = self.heads, len(batch.ids)
        every = heads.queries + 2 * heads.keys
        state = self._embed(batch.ids)
        cosines, sines = self._turns.at(batch.positions)
        packed = Packed(batch.segments, rows, heads, self.shapes, self._like, stride=every)
        for index in range(len(self._layers)):
            lanes = self._lanes(index, batch.body)
            projected = joined(
                [self._project(_part(state, lane), layer, added) for lane, layer, added in lanes]
            )
            halves = projected.to(self._like).view(rows, every, 2, heads.size // 2)
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
        additions = None if body.owners is None else (self._layer_banks[index], body.owners)
        floors = {name: self._upper_layers[name][0] for _, name in body.lanes if name}
        if index < min(floors.values(), default=len(self._layers)):
            return [(None, base, additions)]
        return [
            (lane, self._upper_layers[name][1][index - floors[name]], None)
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
