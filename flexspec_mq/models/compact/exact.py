"""A target with Llama's layers on a CPU: few operations a layer, and the bits of transformers' own code.

Every step rounds where transformers rounds, so a row of logits is what `PackedModel` gives for the same products.
What is saved is everything around it: joined matrices, weights in the order in which the processor's kernel reads
them, and some forty operations a layer where transformers' modules take six times as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.compact.rotary import Turns
from flexspec_mq.models.invariance.attention import Heads, Packed
from flexspec_mq.models.invariance.batch import Batch
from flexspec_mq.models.kv import SessionKV

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.compact.matrices import Matrix
    from flexspec_mq.models.compact.model import Layer
    from flexspec_mq.models.compact.shape import Shape
    from flexspec_mq.models.invariance.product_probe import Product, Products
    from flexspec_mq.models.invariance.shapes import Shapes
    from flexspec_mq.models.runner import ModelInput


@dataclass(frozen=True, slots=True)
class Norms:
    """Weights of a layer's RMS norms, in the dtype of the model.

    Attributes:
        attention: before the attention, [width].
        mlp: before the MLP, [width].
        queries: of each head of queries, [head size]; None where the model has none.
        keys: of each head of keys.
    """

    attention: torch.Tensor
    mlp: torch.Tensor
    queries: torch.Tensor | None = None
    keys: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class ExactLayer:
    """One decoder layer."""

    matrices: Layer
    norms: Norms


@dataclass(frozen=True, slots=True)
class ExactEnds:
    """What is before the first layer and behind the last.

    Attributes:
        embedding: [vocabulary, width].
        norm: weights of the last norm, [width].
        head: to the logits.
    """

    embedding: torch.Tensor
    norm: torch.Tensor
    head: Matrix


class ExactModel:
    """A causal language model that reads several sessions in one forward, as `PackedModel` does.

    Attributes:
        shape: sizes.
        vocab_size: width of the logits.
        heads: of its attention.
        products: with weights.
        shapes: of products.
    """

    def __init__(
        self,
        shape: Shape,
        layers: Sequence[ExactLayer],
        ends: ExactEnds,
        products: Products,
        shapes: Shapes,
    ) -> None:
        self.shape = shape
        self.vocab_size = shape.vocab_size
        self.heads = Heads(shape.queries, shape.keys, shape.head)
        self.products = products
        self.shapes = shapes
        self._layers = layers
        self._ends = ends
        self._like = ends.norm.new_empty(0)
        scale = self.heads.size**-0.5
        # Scores are scaled after their products. A power of two rounds nothing, so the queries' factors may have it.
        folded = scale if math.frexp(scale)[0] == 0.5 else 1.0
        self._scale = scale / folded
        self._turns = Turns(shape.rotary, (shape.queries, shape.keys), self._like, scale=folded)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a forward reads, the embedding left out."""
        return sum(layer.matrices.nbytes for layer in self._layers) + self._ends.head.nbytes

    def new_kv(self) -> SessionKV:
        """Empty keys and values for a new session."""
        return SessionKV(len(self._layers), self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, vocabulary], input by input.
        """
        shape, heads = self.shape, self.heads
        batch = Batch.of(inputs, self.shapes)
        rows = len(batch.ids)
        cosines, sines = self._turns.at(batch.positions)
        every = heads.queries + 2 * heads.keys
        packed = Packed(batch.segments, rows, heads, self.shapes, self._like, stride=every)
        state = functional.embedding(torch.tensor(batch.ids), self._ends.embedding)
        for index, layer in enumerate(self._layers):
            matrices, norms = layer.matrices, layer.norms
            projected = self._in_pieces(matrices.project, self._normed(state, norms.attention))
            projected = projected.view(rows, every, heads.size)
            if norms.queries is not None and norms.keys is not None:
                projected = self._heads_normed(projected, norms.queries, norms.keys)
            halves = projected.view(rows, every, 2, heads.size // 2)
            turned = (halves * cosines).add_(halves.flip(2).mul_(sines)).view(rows, every, heads.size)
            fresh = turned[:, heads.queries :].view(rows, 2, heads.keys, heads.size).permute(1, 2, 0, 3)
            state = state + self._in_pieces(matrices.merge, packed.attend(index, turned, fresh, self._scale))
            state = state + self._in_pieces(partial(_mlp, matrices), self._normed(state, norms.mlp))
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        if not batch.wanted:
            return torch.empty((0, shape.vocab_size))
        last = self._normed(state[batch.wanted], self._ends.norm)
        return self._in_pieces(self._ends.head, last)[: batch.rows].float()

    def _in_pieces(self, product: Product, x: torch.Tensor) -> torch.Tensor:
        """Products, in pieces of as many rows as keep their bits."""
        pieces = [product(piece) for piece in self.shapes.pieces(x)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm over the last dimension, rounded before the weights multiply, as transformers does."""
        wide = x.float()
        squares = (wide * wide).sum(dim=-1, keepdim=True).div_(x.shape[-1])
        return (wide * squares.add_(self.shape.epsilon).rsqrt_()).to(x.dtype).mul_(weight)

    def _heads_normed(
        self, projected: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Norm each head of queries and of keys; values stay as they are."""
        counts = [self.heads.queries, self.heads.keys, self.heads.keys]
        query, key, value = projected.split_with_sizes(counts, dim=1)
        return torch.cat((self._normed(query, queries), self._normed(key, keys), value), dim=1)


def _mlp(matrices: Layer, x: torch.Tensor) -> torch.Tensor:
    gate, up = matrices.widen(x).chunk(2, dim=1)
    return matrices.narrow(functional.silu(gate).mul_(up))
