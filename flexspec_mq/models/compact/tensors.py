"""The tensors of a checkpoint with Llama's layers: read one at a time, checked, and joined to a layer's matrices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open

from flexspec_mq.errors import ModelError
from flexspec_mq.models.compact.matrices import Matrix
from flexspec_mq.models.compact.model import Layer
from flexspec_mq.models.compact.shape import Shape, refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

WEIGHTS = "model.safetensors"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
FIRST_NORM, SECOND_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
QUERY_NORM, KEY_NORM = "self_attn.q_norm.weight", "self_attn.k_norm.weight"
_ATTENTION, _MLP = "self_attn.", "mlp."

Make = Callable[[torch.Tensor, "torch.Tensor | None", bool], Matrix]
"""From weights, bias, and whether the matrix bears rounding well, to what multiplies."""


Reading = Callable[[str, "tuple[int, ...]"], torch.Tensor]
"""From a tensor's name and its shape to the tensor, which must be copied to be kept."""


class Source(Protocol):
    """Tensors by name: of a checkpoint's files, or of a head."""

    def __contains__(self, name: str) -> bool: ...

    def opened(self) -> AbstractContextManager[Reading]:
        """Read them for a while."""
        ...


class Given:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @contextmanager
    def opened(self) -> Iterator[Reading]:
        """Shapes were checked when they were read."""
        yield lambda name, _shape: self._tensors[name]


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

    @property
    def names(self) -> Iterable[str]:
        """Of all of them."""
        return self._where.keys()

    def digest(self) -> str:
        """Of the files with weights, byte by byte."""
        whole = hashlib.sha256()
        for name in sorted(set(self._where.values())):
            with (self._folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def check(self, shape: Shape) -> None:
        """Refuse a model that has parts which would be left out, such as norms of queries.

        Raises:
            ModelError: naming one.
        """
        ours = {EMBEDDING, HEAD, NORM}
        for index in range(shape.layers):
            ours |= {f"{layer_prefix(index)}{name}" for name in _names(shape)}
        strange = sorted(name for name in self._where if name not in ours and "rotary_emb" not in name)
        if strange:
            raise refused(f"the tensor {strange[0]}, one of {len(strange)} that it would leave out")

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """Map the files for a while; what is read is theirs and must be copied to be kept without them.

        Raises:
            ModelError: a tensor is missing, of another shape, or unreadable.
        """
        read = Read(self._folder, self._where)
        try:
            yield read
        except (OSError, SafetensorError, RuntimeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ModelError:
        return ModelError(
            f"cannot load the weights of {self._folder}: {str(error).splitlines()[0]}",
            hint="a file may be missing, cut off or damaged: fetch it again",
        )


class Read:
    """Reads tensors; the mappings end with the tensors that show them."""

    def __init__(self, folder: Path, where: dict[str, str]) -> None:
        self._folder = folder
        self._where = where

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor, still in its file.

        Raises:
            ModelError: it is missing or of another shape.
        """
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


def layer_prefix(index: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"model.layers.{index}."


def _names(shape: Shape) -> Iterator[str]:
    """Names of a layer's tensors, biases included."""
    parts = [f"{_ATTENTION}{part}_proj" for part in "qkvo"] + [
        f"{_MLP}{part}_proj" for part in ("gate", "up", "down")
    ]
    for part in parts:
        yield f"{part}.weight"
        yield f"{part}.bias"
    yield FIRST_NORM
    yield SECOND_NORM
    if shape.head_norms:
        yield QUERY_NORM
        yield KEY_NORM


def read_layer(tensors: Source, index: int, shape: Shape, make: Make, *, fold: bool) -> Layer:
    """A layer's matrices, joined.

    Args:
        tensors: of the checkpoint.
        index: of the layer.
        shape: of the model.
        make: prepares a matrix.
        fold: put the weights of the norms into the matrices behind them.

    Raises:
        ModelError: a tensor is missing, of another shape, or unreadable.
    """
    queries, keys = shape.queries * shape.head, shape.keys * shape.head
    prefix = layer_prefix(index)
    with tensors.opened() as read:

        def fused(
            width: int, *parts: tuple[str, int], norm: str | None = None, coarse: bool = False
        ) -> Matrix:
            weights = [read(f"{prefix}{name}.weight", (rows, width)) for name, rows in parts]
            # A copy also of a single one: products from the file's own pages would start at any byte of a line.
            weight = torch.cat(weights)
            if norm is not None and fold:
                weight = weight * read(f"{prefix}{norm}", (width,)).float()
            if not any(f"{prefix}{name}.bias" in tensors for name, _ in parts):
                return make(weight, None, coarse)
            biases = [
                read(f"{prefix}{name}.bias", (rows,))
                if f"{prefix}{name}.bias" in tensors
                else torch.zeros(rows)
                for name, rows in parts
            ]
            return make(weight, torch.cat(biases), coarse)

        return Layer(
            project=fused(
                shape.width,
                (f"{_ATTENTION}q_proj", queries),
                (f"{_ATTENTION}k_proj", keys),
                (f"{_ATTENTION}v_proj", keys),
                norm=FIRST_NORM,
            ),
            merge=fused(queries, (f"{_ATTENTION}o_proj", shape.width)),
            widen=fused(
                shape.width,
                (f"{_MLP}gate_proj", shape.inner),
                (f"{_MLP}up_proj", shape.inner),
                norm=SECOND_NORM,
                coarse=True,
            ),
            narrow=fused(shape.inner, (f"{_MLP}down_proj", shape.width), coarse=True),
        )
