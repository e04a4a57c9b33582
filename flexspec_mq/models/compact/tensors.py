"""Tensors of a checkpoint with Llama's layers: checked, and joined to a layer's matrices."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from flexspec_mq.models.head import MODULES, FullHead, full_name, module_shapes
from flexspec_mq.models.matrices import Matrix
from flexspec_mq.models.shape import Shape, refused

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
FIRST_NORM, SECOND_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
QUERY_NORM, KEY_NORM = "self_attn.q_norm.weight", "self_attn.k_norm.weight"
MATRICES = {"project": ("q", "k", "v"), "merge": ("o",), "widen": ("gate", "up"), "narrow": ("down",)}
"""A layer's matrices, and the modules whose outputs lie behind one another in each."""

Make = Callable[[torch.Tensor, "torch.Tensor | None"], Matrix]
"""Prepares a matrix from weights and bias."""


class Source(Protocol):
    """Tensors of a checkpoint folder or of a GGUF file, by transformers' names."""

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Read a tensor, which must have the shape."""


@dataclass(frozen=True, slots=True)
class ExactLayer:
    """Decoder layer with the weights of its RMS norms, in the dtype of the model.

    Attributes:
        project: matrix to queries, keys and values, one behind the other.
        merge: matrix from the heads back to the width.
        widen: matrix to gate and up, one behind the other.
        narrow: matrix back to the width.
        attention_norm: norm before the attention, [width].
        mlp_norm: norm before the MLP, [width].
        query_norm: norm of each head of queries, [head size]; None where the model has none.
        key_norm: norm of each head of keys.
    """

    project: Matrix
    merge: Matrix
    widen: Matrix
    narrow: Matrix
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None


def check_names(tensors: Source, shape: Shape) -> None:
    """Refuse a model that has parts which would be left out, such as norms of queries.

    Raises:
        UnknownModel: naming one.
    """
    ours = {EMBEDDING, HEAD, NORM}
    for index in range(shape.layers):
        ours |= {f"{layer_prefix(index)}{name}" for name in _names(shape)}
    strange = [name for name in tensors.names if name not in ours and "rotary_emb" not in name]
    if strange:
        raise refused(f"the tensor {strange[0]}, one of {len(strange)} that it would leave out")


def layer_prefix(index: int) -> str:
    """Beginning of the names of a layer's tensors."""
    return f"model.layers.{index}."


def _names(shape: Shape) -> Iterator[str]:
    """Names of a layer's tensors, biases included."""
    for module in MODULES:
        yield f"{full_name(module)}.weight"
        yield f"{full_name(module)}.bias"
    for name, _ in layer_norms(shape):
        yield name


def layer_weights(
    tensors: Source | FullHead, index: int, shape: Shape, room: torch.Tensor | None = None
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
    """Read name, joined weights and bias of each of `MATRICES`, one after another.

    Args:
        tensors: where they are.
        index: which layer.
        shape: shape of the model.
        room: memory that the weights of one matrix after another are joined in, as `joining_room` makes it; new memory
            for each without it.

    Raises:
        ModelError: a tensor is missing, of another shape, or unreadable.
    """
    sizes = module_shapes(shape)
    for matrix, parts in MATRICES.items():
        named = [(f"{layer_prefix(index)}{full_name(part)}", sizes[part]) for part in parts]
        out = None
        if room is not None:
            rows, width = sum(size[0] for _, size in named), named[0][1][1]
            out = room[: rows * width].view(rows, width)
        # A copy also of a single one: products from the file's own pages would start at any byte of a line.
        weight = torch.cat([tensors.read(f"{name}.weight", size) for name, size in named], out=out)
        biases = [
            tensors.read(f"{name}.bias", size[:1]) if f"{name}.bias" in tensors else torch.zeros(size[0])
            for name, size in named
        ]
        yield matrix, weight, torch.cat(biases) if has_bias(tensors, index, parts) else None


def joining_room(shape: Shape, like: torch.Tensor) -> torch.Tensor:
    """Memory that holds the largest joined matrix of a layer, in the dtype of `like`.

    Copies of their own, freed between matrices that stay, would leave holes: half a gigabyte for a model of three.
    """
    sizes = module_shapes(shape)
    most = max(sum(sizes[part][0] for part in parts) * sizes[parts[0]][1] for parts in MATRICES.values())
    return torch.empty(most, dtype=like.dtype)


def read_exact_layer(
    tensors: Source | FullHead,
    index: int,
    shape: Shape,
    make: Make,
    like: torch.Tensor,
    room: torch.Tensor | None = None,
) -> ExactLayer:
    """Read a layer's matrices, joined, and its norms, on the device and in the dtype of `like`.

    With a `room` of `joining_room`, `make` has to copy what it keeps.

    Raises:
        ModelError: a tensor is missing, of another shape, or unreadable.
    """
    # A matrix is made before the next one is joined in the same room.
    matrices = (make(weight, bias) for _, weight, bias in layer_weights(tensors, index, shape, room))
    return exact_layer(matrices, tensors, index, shape, like)


def exact_layer(
    matrices: Iterable[Matrix], tensors: Source | FullHead, index: int, shape: Shape, like: torch.Tensor
) -> ExactLayer:
    """Read a layer's norms beside its matrices, which are in the order of `MATRICES`.

    Raises:
        ModelError: a norm is missing, of another shape, or unreadable.
    """
    project, merge, widen, narrow = matrices
    norms = (
        tensors.read(f"{layer_prefix(index)}{name}", (width,)).to(like, copy=True)
        for name, width in layer_norms(shape)
    )
    return ExactLayer(project, merge, widen, narrow, *norms)


def layer_norms(shape: Shape) -> list[tuple[str, int]]:
    """Name and width of each norm of a layer, in the order in which `ExactLayer` has them."""
    head_norms = [(QUERY_NORM, shape.head), (KEY_NORM, shape.head)] if shape.head_norms else []
    return [(FIRST_NORM, shape.width), (SECOND_NORM, shape.width), *head_norms]


def has_bias(tensors: Source | FullHead, index: int, parts: Iterable[str]) -> bool:
    """Whether some of these modules of a layer have a bias."""
    return any(f"{layer_prefix(index)}{full_name(part)}.bias" in tensors for part in parts)
