"""Heads in memory: weights on top of a base with Llama's layers, with the base's names and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.heads.manifest import HeadError

if TYPE_CHECKING:
    import torch

    from flexspec_mq.models.shape import Shape

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
"""A layer's matrices, each named ``…_proj``."""
NORM, LM_HEAD = "model.norm.weight", "lm_head.weight"
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.weight")


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """A low-rank addition to a matrix: x → B(A(x)) times a scale.

    Attributes:
        down: A, [rank, width of the input].
        up: B, [width of the output, rank].
        scale: scale of the product.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Width between the two."""
        return self.down.shape[0]

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The matrix with the addition in it, in its own dtype."""
        added = (self.up.float() @ self.down.float()).to(weight.device) * self.scale
        return (weight.float() + added).to(weight.dtype)


@dataclass(frozen=True, slots=True)
class LoraHead:
    """Low-rank additions to a base's matrices.

    Attributes:
        layers: additions by index of the layer, then by one of `MODULES`.
        norm: weights of the last norm, [width]; None is the base's.
        lm_head: an addition to it, or another one, [vocabulary, width]; None is the base's.
    """

    layers: Mapping[int, Mapping[str, LoraDelta]]
    norm: torch.Tensor | None = None
    lm_head: LoraDelta | torch.Tensor | None = None

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A tensor of the base with what the head has for its name."""
        own = {NORM: self.norm, LM_HEAD: self.lm_head}.get(name)
        if match := _IN_LAYER.fullmatch(name):
            own = self.layers.get(int(match[1]), {}).get(match[2])
        if isinstance(own, LoraDelta):
            return own.merged(weight)
        return weight if own is None else own.to(weight)


@dataclass(frozen=True, slots=True)
class FullHead:
    """Other upper layers.

    Attributes:
        floor: the lowest of them; all above are there too.
        tensors: tensors by the base's names; final norm and LM head may be missing, they are the base's then.
    """

    floor: int
    tensors: Mapping[str, torch.Tensor]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str, _shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor, whose shape was checked when the head was read."""
        return self.tensors[name]

    @property
    def norm(self) -> torch.Tensor | None:
        """Weights of the last norm."""
        return self.tensors.get(NORM)

    @property
    def lm_head(self) -> torch.Tensor | None:
        """Another LM head."""
        return self.tensors.get(LM_HEAD)


Head = LoraHead | FullHead


def module_shapes(sizes: Shape) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each of `MODULES`."""
    queries, keys = sizes.queries * sizes.head, sizes.keys * sizes.head
    return {
        "q": (queries, sizes.width),
        "k": (keys, sizes.width),
        "v": (keys, sizes.width),
        "o": (sizes.width, queries),
        "gate": (sizes.inner, sizes.width),
        "up": (sizes.inner, sizes.width),
        "down": (sizes.width, sizes.inner),
    }


def full_name(module: str) -> str:
    """A matrix' name within its layer: ``q`` → ``self_attn.q_proj``."""
    return f"{'self_attn' if module in 'qkvo' else 'mlp'}.{module}_proj"


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a head's file; each must be of floating point, and finite.

    Raises:
        HeadError: it cannot be read, or holds what no weight can be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise HeadError(
            f"cannot read {path}: {error}", hint="a head's weights are a safetensors file; save it again"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise HeadError(f"{path}: {name} is {tensor.dtype}", hint="weights are of floating point")
        if not bool(tensor.isfinite().all()):
            raise HeadError(f"{path}: {name} has weights that are not finite", hint="train the head again")
    return tensors


def check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor.

    Raises:
        HeadError: it has another shape.
    """
    if tuple(tensor.shape) != shape:
        raise HeadError(
            f"{name} has shape {list(tensor.shape)}, the base needs {list(shape)}",
            hint="the head was made for another base",
        )
    return tensor


def check_layer(name: str, index: int, sizes: Shape, floor: int) -> None:
    """Refuse a layer that a head must not touch.

    Raises:
        HeadError: it is below the floor, or the base has no such layer.
    """
    if index < floor:
        raise HeadError(
            f"{name} is in layer {index}, and the layers below {floor} are the family's backbone",
            hint=f"train with layers_to_transform=[{floor}, …, {sizes.layers - 1}]",
        )
    if index >= sizes.layers:
        raise HeadError(
            f"{name} is in layer {index}, the base has {sizes.layers}",
            hint="the head was made for another base",
        )
