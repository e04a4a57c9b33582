"""Forwards for several sessions through fused matrices, without transformers' modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.rotary import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from flexspec_mq.models.compact.matrices import Matrix
    from flexspec_mq.models.compact.tensors import Layer
    from flexspec_mq.models.runner import ModelInput
    from flexspec_mq.models.shape import Shape


_FEW = 8
"""Tokens of a session up to which keys are the first factor of the scores."""


class CompactModel:
    """A model with Llama's layers that reads several sessions in one forward, as `PackedModel` does.

    Quickest for one token of one session. Rows of logits may differ by rounding with what shares the forward.

    Args:
        shape: sizes.
        kind: kind of its weights, one of `matrices.KINDS`.
        layers: decoder layers.
        embedding: bfloat16 [vocabulary, width].
        norm: weights of the final norm, float32 [width].
        lm_head: matrix to the logits of `ids`.
        ids: token id of each column of the logits, ascending; None when they are all ids.
    """

    def __init__(
        self,
        shape: Shape,
        kind: str,
        layers: Sequence[Layer],
        embedding: torch.Tensor,
        norm: torch.Tensor,
        lm_head: Matrix,
        ids: npt.NDArray[np.int64] | None,
    ) -> None:
        self.shape = shape
        self.kind = kind
        self.ids = ids
        self._layers = layers
        self._embedding, self._norm, self._lm_head = embedding, norm, lm_head
        self._like = torch.empty(0, dtype=torch.bfloat16)
        self._turns = Turns(shape.rotary, (shape.queries, shape.keys), self._like)

    @property
    def nbytes(self) -> int:
        """Bytes of matrices that a forward reads, the embedding left out."""
        return sum(layer.nbytes for layer in self._layers) + self._lm_head.nbytes

    @property
    def columns(self) -> int:
        """Width of the logits."""
        return self.shape.vocab_size if self.ids is None else len(self.ids)

    def new_kv(self) -> SessionKV:
        """Make empty keys and values for a new session."""
        return SessionKV(len(self._layers), self.shape.keys, self.shape.head, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, columns], input by input; `ids` says which token a column is.
        """
        shape = self.shape
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        views: list[_View] = []
        for model_input in inputs:
            base, count = model_input.kv.length, len(model_input.tokens)
            model_input.kv.reserve(base + count)
            views.append(_View(model_input.kv, slice(len(tokens), len(tokens) + count), base, shape))
            tokens += model_input.tokens
            positions += range(base, base + count)
            wanted += range(len(tokens) - model_input.rows, len(tokens))
        rows = len(tokens)
        cosines, sines = self._turns.at(positions)
        # The sum of all layers is kept in float32; products are of bfloat16.
        state = functional.embedding(torch.tensor(tokens), self._embedding).float()
        heads = (rows, shape.queries + 2 * shape.keys, 2, shape.head // 2)
        width = shape.queries * shape.head
        for index, layer in enumerate(self._layers):
            projected = layer.project(self._normed(state)).view(heads)
            turned = torch.addcmul(projected * cosines, projected.flip(2), sines).view(rows, -1, shape.head)
            mixed = views[0].attend(index, turned)
            if len(views) > 1:
                mixed = torch.cat([mixed, *(view.attend(index, turned) for view in views[1:])])
            state += layer.merge(mixed.view(rows, width))
            gate, up = layer.widen(self._normed(state)).chunk(2, dim=1)
            state += layer.narrow(functional.silu(gate).mul_(up))
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        if not wanted:
            return torch.empty((0, self.columns))
        if len(wanted) < rows:
            state = state[wanted]
        return self._lm_head((self._normed(state) * self._norm).to(torch.bfloat16)).float()

    def _normed(self, state: torch.Tensor) -> torch.Tensor:
        """RMS norm without weights: float32 [rows, width] → bfloat16 of the same shape."""
        width, epsilon = self.shape.width, self.shape.epsilon
        if state.shape[0] > 1:
            return functional.rms_norm(state, (width,), None, epsilon).to(torch.bfloat16)
        # For one row, a number of Python's costs half of what the steps of torch's norm cost.
        row = state[0]
        scale = (float(row.dot(row)) / width + epsilon) ** -0.5
        return torch.mul(state, scale, out=state.new_empty(state.shape, dtype=torch.bfloat16))


class _View:
    """Rows of a session in a forward, and its keys and values in every layer."""

    def __init__(self, kv: SessionKV, rows: slice, base: int, shape: Shape) -> None:
        self._rows = rows
        self._count = count = rows.stop - rows.start
        self._queries, self._keys, self._size = shape.queries, shape.keys, shape.head
        whole = kv.span(0, base + count)
        self._into = kv.span(base, base + count).unbind(0)
        self._read_keys = whole[:, 0].unbind(0)
        self._read_values = whole[:, 1].unbind(0)
        self._hidden: torch.Tensor | None = None
        if count > 1:
            seen = torch.arange(base + count)
            self._hidden = seen > torch.arange(base, base + count)[:, None]

    def attend(self, layer: int, turned: torch.Tensor) -> torch.Tensor:
        """Store a layer's new keys and values, and attend.

        Args:
            layer: which.
            turned: queries, scaled, keys and values of all rows: [rows, heads, head size].

        Returns:
            [this session's rows, heads of queries x head size].
        """
        mine = turned[self._rows] if turned.shape[0] != self._count else turned
        count, keys, size = self._count, self._keys, self._size
        fresh = mine[:, self._queries :].view(count, 2, keys, size)
        self._into[layer].copy_(fresh.permute(1, 2, 0, 3))
        # Rows of a product: the heads of queries that share a head of keys, and within each the tokens.
        query = (
            mine[:, : self._queries].view(count, keys, -1, size).permute(1, 2, 0, 3).reshape(keys, -1, size)
        )
        if count > _FEW:
            scores = torch.bmm(query, self._read_keys[layer].transpose(1, 2))
        else:  # torch turns a second factor that lies across, which for few rows costs three times the product
            scores = torch.bmm(self._read_keys[layer], query.transpose(1, 2)).transpose(1, 2).contiguous()
        if self._hidden is not None:
            scores.view(keys, -1, *self._hidden.shape).masked_fill_(self._hidden, float("-inf"))
        mixed = torch.bmm(torch.softmax(scores, dim=-1), self._read_values[layer])
        return mixed.view(keys, -1, count, size).permute(2, 0, 1, 3).reshape(count, -1)
