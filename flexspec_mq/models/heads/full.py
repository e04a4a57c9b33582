"""A head of other upper layers: all weights of the layers from the floor on, with the base's names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.heads.head import (
    LM_HEAD,
    NORM,
    FullHead,
    check_layer,
    check_shape,
    full_name,
    module_shapes,
    read_safetensors,
)

if TYPE_CHECKING:
    from pathlib import Path

    from flexspec_mq.models.heads.head import Sizes

WEIGHTS = "head.safetensors"
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def read_full(folder: Path, sizes: Sizes, floor: int) -> FullHead:
    """Read upper layers.

    Args:
        folder: with `WEIGHTS`.
        sizes: of the base.
        floor: the lowest layer that it may touch; it brings all layers from there on.

    Raises:
        HeadError: the file is missing or damaged, or the head touches what it must not, lacks a tensor, or does not
            fit the base.
    """
    if not (folder / WEIGHTS).is_file():
        raise HeadError(
            f"{folder} has no {WEIGHTS}", hint="pickle files are never read: save it as safetensors"
        )
    shapes: dict[str, tuple[int, ...]] = {
        f"{full_name(name)}.weight": shape for name, shape in module_shapes(sizes).items()
    }
    optional: dict[str, tuple[int, ...]] = {
        f"{full_name(name)}.bias": shape[:1] for name, shape in module_shapes(sizes).items()
    }
    shapes |= dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (sizes.width,))
    optional |= dict.fromkeys(("self_attn.q_norm.weight", "self_attn.k_norm.weight"), (sizes.head,))
    ends = {NORM: (sizes.width,), LM_HEAD: (sizes.vocab_size, sizes.width)}
    tensors = read_safetensors(folder / WEIGHTS)
    for name, tensor in tensors.items():
        found = _LAYER.fullmatch(name)
        if found is not None:
            check_layer(name, int(found[1]), sizes, floor)
        wanted = ends.get(name) if found is None else (shapes | optional).get(found[2])
        if wanted is None:
            raise HeadError(
                f"the head brings {name}, which no head may change",
                hint=f"it may bring layers from {floor} on, model.norm and lm_head",
            )
        check_shape(name, tensor, wanted)
    for index in range(floor, sizes.layers):
        for name in shapes:
            if f"model.layers.{index}.{name}" not in tensors:
                raise HeadError(
                    f"the head lacks model.layers.{index}.{name}", hint=f"save all layers from {floor} on"
                )
    return FullHead(floor, tensors)
