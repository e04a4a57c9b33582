"""From a checkpoint folder to a compact model, one tensor at a time: the whole is never held in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.matrices import KINDS, Matrix, cheapest, make, works
from flexspec_mq.models.compact.model import CompactModel
from flexspec_mq.models.compact.tensors import EMBEDDING, HEAD, NORM, Tensors, read_layer
from flexspec_mq.models.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from flexspec_mq.models.load import LoadedText

RANKS = "token_ranks.npy"
"""File of a draft's folder: int32 token ids by falling frequency, each at most once; rare ones may be left out."""

Ids = npt.NDArray[np.int64]
AUTO_IDS = 16_384
"""Ids that a head keeps when nobody says how many."""


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
    kept = head_ids(folder, shape, text.eos, ids)
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


def head_ids(folder: Path, shape: Shape, eos: Sequence[int], count: int | None) -> Ids | None:
    """The ids that a head keeps, ascending; None when they are all.

    Raises:
        ModelError: a number of ids is wanted of a draft that does not say which are frequent, or says it wrongly.
    """
    if count == 0:
        return None
    ranks = read_ranks(folder, shape.vocab_size)
    if ranks is None:
        if count is None:
            return None
        raise ModelError(
            f"{folder} has no {RANKS}, so nobody knows which {count} ids are frequent",
            hint="draft_ids = 0 keeps all; an export of a newer draft brings the file",
        )
    ids = frequent(ranks, AUTO_IDS if count is None else count, eos)
    return ids if len(ids) < shape.vocab_size else None


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
    """The ids that a head of about `count` keeps, ascending.

    Args:
        ranks: ids by falling frequency; when there are fewer than `count`, all of them are kept.
        count: how many.
        always: kept besides, such as the ends of a text.
    """
    return np.union1d(ranks[:count], np.fromiter(always, dtype=np.int64))
