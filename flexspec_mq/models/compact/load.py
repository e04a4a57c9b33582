"""From a checkpoint folder to a compact model, one tensor at a time: the whole is never held in full precision."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.compact.matrices import KINDS, Matrix, cheapest, make, works
from flexspec_mq.models.compact.model import CompactModel, Ends, Layer
from flexspec_mq.models.compact.ranks import RANKS, frequent, read_ranks
from flexspec_mq.models.compact.shape import Shape, refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flexspec_mq.models.compact.ranks import Ids
    from flexspec_mq.models.load import LoadedText

WEIGHTS = "model.safetensors"
AUTO_IDS = 16_384
"""Ids that a head keeps when nobody says how many."""

_EMBEDDING, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_ATTENTION, _MLP = "self_attn.", "mlp."
_FIRST_NORM, _SECOND_NORM = "input_layernorm", "post_attention_layernorm"


@dataclass(frozen=True, slots=True)
class Choice:
    """How a draft is loaded.

    Attributes:
        weights: one of `KINDS`, or ``auto``.
        ids: how many ids the LM head keeps; 0 is all, None is `AUTO_IDS` where the draft says which are frequent.
    """

    weights: str = "auto"
    ids: int | None = None


def load_compact(folder: Path, text: LoadedText, choice: Choice) -> CompactModel:
    """Load a draft for the CPU.

    The embedding stays in the file and is mapped into memory: rows that are looked up take room, others do not. So
    the file must be replaced by another one, never written over, while the draft runs.

    Args:
        folder: an ordinary checkpoint, config.json and safetensors.
        text: its configuration and tokenizer.
        choice: what to make of it.

    Raises:
        ModelError: a model that is not built like Llama, damaged or incomplete weights, or ids wanted of a draft
            that does not say which are frequent.
        UsageError: weights that do not exist or cannot be computed with here.
    """
    shape = Shape.of(text.config)
    kind = _kind(choice.weights)
    ids = head_ids(folder, shape, text.eos, choice.ids)
    tensors = Tensors(folder)
    tensors.check(shape)
    layers = [_layer(tensors, index, shape, kind) for index in range(shape.layers)]
    whole = (shape.vocab_size, shape.width)
    with tensors.opened() as read:
        embedding = read(_EMBEDDING, whole).to(torch.bfloat16)
        norm = read(_NORM, (shape.width,)).to(torch.float32, copy=True)
        # A mapping of its own, though it be the embedding: the pages that are read for the head go with it.
        head = read(_EMBEDDING if shape.tied else _HEAD, whole)
        matrix = make(kind, head if ids is None else head[torch.from_numpy(ids)], coarse=True)
        del head
    return CompactModel(shape, kind, layers, Ends(embedding, norm, matrix, ids))


def _kind(weights: str) -> str:
    if weights == "auto":
        return cheapest()
    if weights not in KINDS:
        raise UsageError(f"unknown weights {weights!r}", hint=f"choose auto or one of {', '.join(KINDS)}")
    if not works(weights):
        raise UsageError(
            f"this build of torch cannot compute with {weights} weights on this processor",
            hint="--draft-weights auto takes what it can",
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
            hint="--draft-ids 0 keeps all; an export of a newer draft brings the file",
        )
    ids = frequent(ranks, AUTO_IDS if count is None else count, eos)
    return ids if len(ids) < shape.vocab_size else None


class Tensors:
    """The tensors of a checkpoint by name, from one file or several."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / f"{WEIGHTS}.index.json"
        if not index.exists() and not (folder / WEIGHTS).exists() and any(folder.glob("*.bin")):
            raise refused(f"weights in another form than {WEIGHTS}")
        try:
            if index.exists():
                self._where: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
            else:
                with safe_open(folder / WEIGHTS, framework="pt") as opened:
                    self._where = dict.fromkeys(opened.keys(), WEIGHTS)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self._unreadable(error) from error

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def check(self, shape: Shape) -> None:
        """Refuse a model that has parts which would be left out, such as norms of queries.

        Raises:
            ModelError: naming one.
        """
        ours = {_EMBEDDING, _HEAD, _NORM}
        for index in range(shape.layers):
            ours |= {f"{_prefix(index)}{name}" for name in _names()}
        strange = sorted(name for name in self._where if name not in ours and "rotary_emb" not in name)
        if strange:
            raise refused(f"the tensor {strange[0]}, one of {len(strange)} that it would leave out")

    @contextmanager
    def opened(self) -> Iterator[_Read]:
        """Map the files for a while; what is read is theirs and must be copied to be kept without them.

        Raises:
            ModelError: a tensor is missing, of another shape, or unreadable.
        """
        read = _Read(self._folder, self._where)
        try:
            yield read
        except (OSError, SafetensorError, RuntimeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ModelError:
        return ModelError(
            f"cannot load the weights of {self._folder}: {str(error).splitlines()[0]}",
            hint="a file may be missing, cut off or damaged: fetch it again",
        )


class _Read:
    """Reads tensors; the mappings end with the tensors that show them."""

    def __init__(self, folder: Path, where: dict[str, str]) -> None:
        self._folder = folder
        self._where = where

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        file = self._where.get(name)
        if file is None:
            raise ModelError(
                f"{self._folder} lacks tensors of its model, such as {name}",
                hint="the weights are incomplete or belong to another config.json",
            )
        with safe_open(self._folder / file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._folder}: {name} has shape {list(tensor.shape)}, its config.json wants {list(shape)}",
                hint="the weights belong to another config.json",
            )
        return tensor


def _prefix(index: int) -> str:
    return f"model.layers.{index}."


def _names() -> Iterator[str]:
    """Names of a layer's tensors, biases included."""
    parts = [f"{_ATTENTION}{part}_proj" for part in "qkvo"] + [
        f"{_MLP}{part}_proj" for part in ("gate", "up", "down")
    ]
    for part in parts:
        yield f"{part}.weight"
        yield f"{part}.bias"
    yield f"{_FIRST_NORM}.weight"
    yield f"{_SECOND_NORM}.weight"


def _layer(tensors: Tensors, index: int, shape: Shape, kind: str) -> Layer:
    queries, keys = shape.queries * shape.head, shape.keys * shape.head
    prefix = _prefix(index)
    with tensors.opened() as read:

        def fused(
            width: int, *parts: tuple[str, int], norm: str | None = None, coarse: bool = False
        ) -> Matrix:
            weights = [read(f"{prefix}{name}.weight", (rows, width)) for name, rows in parts]
            # A copy also of a single one: products from the file's own pages would start at any byte of a line.
            weight = torch.cat(weights)
            if norm is not None:
                weight = weight * read(f"{prefix}{norm}.weight", (width,)).float()
            if not any(f"{prefix}{name}.bias" in tensors for name, _ in parts):
                return make(kind, weight, coarse=coarse)
            biases = [
                read(f"{prefix}{name}.bias", (rows,))
                if f"{prefix}{name}.bias" in tensors
                else torch.zeros(rows)
                for name, rows in parts
            ]
            return make(kind, weight, torch.cat(biases), coarse=coarse)

        return Layer(
            project=fused(
                shape.width,
                (f"{_ATTENTION}q_proj", queries),
                (f"{_ATTENTION}k_proj", keys),
                (f"{_ATTENTION}v_proj", keys),
                norm=_FIRST_NORM,
            ),
            merge=fused(queries, (f"{_ATTENTION}o_proj", shape.width)),
            widen=fused(
                shape.width,
                (f"{_MLP}gate_proj", shape.inner),
                (f"{_MLP}up_proj", shape.inner),
                norm=_SECOND_NORM,
                coarse=True,
            ),
            narrow=fused(shape.inner, (f"{_MLP}down_proj", shape.width), coarse=True),
        )
