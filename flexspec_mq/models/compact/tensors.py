"""Tensors of a checkpoint with Llama's layers: checked, and joined to a layer's matrices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from flexspec_mq.models.head import MODULES, FullHead, full_name, module_shapes
from flexspec_mq.models.matrices import Matrix
from flexspec_mq.models.shape import Shape, refused
from flexspec_mq.models.weights import Tensors

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
FIRST_NORM, SECOND_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
QUERY_NORM, KEY_NORM = "self_attn.q_norm.weight", "self_attn.k_norm.weight"
MATRICES = {"project": ("q", "k", "v"), "merge": ("o",), "widen": ("gate", "up"), "narrow": ("down",)}
"""A layer's matrices, and the modules whose outputs lie behind one another in each."""

Make = Callable[[torch.Tensor, "torch.Tensor | None"], Matrix]
"""Prepares a matrix from weights and bias."""


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


def check_names(tensors: Tensors, shape: Shape) -> None:
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
    yield FIRST_NORM
    yield SECOND_NORM
    if shape.head_norms:
        yield QUERY_NORM
        yield KEY_NORM


def layer_weights(
    tensors: Tensors | FullHead, index: int, shape: Shape, room: torch.Tensor | None = None
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
        biased = any(f"{name}.bias" in tensors for name, _ in named)
        yield matrix, weight, torch.cat(biases) if biased else None


def joining_room(shape: Shape, like: torch.Tensor) -> torch.Tensor:
    """Memory that holds the largest joined matrix of a layer, in the dtype of `like`.

    Copies of their own, freed between matrices that stay, would leave holes: half a gigabyte for a model of three.
    """
    sizes = module_shapes(shape)
    most = max(sum(sizes[part][0] for part in parts) * sizes[parts[0]][1] for parts in MATRICES.values())
    return torch.empty(most, dtype=like.dtype)


def read_exact_layer(
    tensors: Tensors | FullHead,
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

    def norm(name: str, width: int) -> torch.Tensor:
        return tensors.read(f"{layer_prefix(index)}{name}", (width,)).to(like, copy=True)

    # A matrix is made before the next one is joined in the same room.
    project, merge, widen, narrow = (
        make(weight, bias) for _, weight, bias in layer_weights(tensors, index, shape, room)
    )
    head_norms = (norm(QUERY_NORM, shape.head), norm(KEY_NORM, shape.head)) if shape.head_norms else ()
    return ExactLayer(
        project, merge, widen, narrow,
        norm(FIRST_NORM, shape.width), norm(SECOND_NORM, shape.width), *head_norms,
    )  # fmt: skip
