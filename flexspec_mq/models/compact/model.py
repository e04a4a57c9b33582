"""Drafts in few bits: forwards for several sessions through fused matrices, without transformers' modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.tensors import EMBEDDING, HEAD, NORM, Tensors, read_layer
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.matrices import KINDS, Matrix, cheapest, make, works
from flexspec_mq.models.shape import Shape, Turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from flexspec_mq.models.compact.tensors import Layer
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.models.runner import ModelInput

RANKS = "token_ranks.npy"
"""File of a draft's folder: int32 token ids by falling frequency, each at most once; rare ones may be left out."""

Ids = npt.NDArray[np.int64]
AUTO_IDS = 16_384
"""Ids that a head keeps when nobody says how many."""
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
        ids: Ids | None,
    ) -> None:
        self.shape = shape
        self.kind = kind
        self.ids = ids
        self._layers = layers
        self._embedding, self._norm, self._lm_head = embedding, norm, lm_head
        self._like = torch.empty(0, dtype=torch.bfloat16)
        self._turns = Turns(shape, self._like)

    @property
    def columns(self) -> int:
        """Width of the logits."""
        return self.shape.vocab_size if self.ids is None else len(self.ids)

    def new_kv(self) -> SessionKV:
        """Make empty keys and values for a new session."""
        return SessionKV(len(self._layers), self.shape.keys, self.shape.head, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs, as `DraftRunner` says; `ids` are the columns."""
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

        Queries, scaled, keys and values of all rows, [rows, heads, head size], become [this session's rows, heads of
        queries x head size].
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


def load_compact(
    folder: Path, text: LoadedText, weights: str = "auto", ids: int | None = None
) -> CompactModel:
    """Load a draft for the CPU.

    The embedding stays in the file and is mapped into memory: rows that are looked up take room, others do not. So
    the file must be replaced by another one, never written over, while the draft runs.

    Args:
        folder: an ordinary checkpoint, config.json and safetensors.
        text: configuration and tokenizer.
        weights: kind of the weights, one of `KINDS`, or ``auto``.
        ids: how many ids the LM head keeps; 0 is all, None is `AUTO_IDS` where the draft says which are frequent.

    Raises:
        ModelError: a model that is not built like Llama, damaged or incomplete weights, or ids wanted of a draft
            that does not say which are frequent.
        UsageError: weights that do not exist or cannot be computed with here.
    """
    shape = Shape.from_config(text.config)
    kind = _kind(weights)
    kept = head_ids(folder, shape.vocab_size, text.eos, ids)
    tensors = Tensors(folder)
    tensors.check(shape)

    def make_coarse(weight: torch.Tensor, bias: torch.Tensor | None, coarse: bool) -> Matrix:
        return make(kind, weight, bias, coarse=coarse)

    layers = [read_layer(tensors, index, shape, make_coarse, fold=True) for index in range(shape.layers)]
    whole = (shape.vocab_size, shape.width)
    embedding = tensors.read(EMBEDDING, whole).to(torch.bfloat16)
    norm = tensors.read(NORM, (shape.width,)).to(torch.float32, copy=True)
    # A mapping of its own, though it be the embedding: the pages that are read for the head go with it.
    head = tensors.read(EMBEDDING if shape.tied else HEAD, whole)
    lm_head = make(kind, head if kept is None else head[torch.from_numpy(kept)], coarse=True)
    return CompactModel(shape, kind, layers, embedding, norm, lm_head, kept)


def _kind(weights: str) -> str:
    if weights == "auto":
        return cheapest()
    if weights not in KINDS:
        raise UsageError(f"unknown weights {weights!r}", hint=f"choose auto or one of {', '.join(KINDS)}")
    if not works(weights):
        raise UsageError(
            f"this build of torch cannot compute with {weights} weights on this processor",
            hint='draft_weights = "auto" takes what it can',
        )
    return weights


def head_ids(folder: Path, vocab_size: int, eos: Sequence[int], count: int | None) -> Ids | None:
    """The ids that a head keeps, ascending; None when they are all.

    Raises:
        ModelError: a number of ids is wanted of a draft that does not say which are frequent, or says it wrongly.
    """
    if count == 0:
        return None
    ranks = read_ranks(folder, vocab_size)
    if ranks is None:
        if count is None:
            return None
        raise ModelError(
            f"{folder} has no {RANKS}, so nobody knows which {count} ids are frequent",
            hint="draft_ids = 0 keeps all; an export of a newer draft brings the file",
        )
    ids = frequent(ranks, AUTO_IDS if count is None else count, eos)
    return ids if len(ids) < vocab_size else None


def read_ranks(folder: Path, vocab_size: int) -> Ids | None:
    """The ids by falling frequency; None when the draft does not say.

    Raises:
        ModelError: the file is damaged or of another vocabulary.
    """
    path = folder / RANKS
    if not path.is_file():
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint="export the draft again") from error
    if loaded.ndim != 1 or not np.issubdtype(loaded.dtype, np.integer) or not len(loaded):
        raise ModelError(f"{path} is no list of token ids", hint="export the draft again")
    ranks: Ids = loaded.astype(np.int64)
    if ranks.min() < 0 or ranks.max() >= vocab_size or len(np.unique(ranks)) != len(ranks):
        raise ModelError(
            f"{path} does not belong to a vocabulary of {vocab_size} tokens", hint="export the draft again"
        )
    return ranks


def frequent(ranks: Ids, count: int, always: Iterable[int]) -> Ids:
    """The ids that a head keeps, ascending: the first `count` of those by falling frequency, and some always."""
    return np.union1d(ranks[:count], np.fromiter(always, dtype=np.int64))
