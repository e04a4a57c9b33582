"""Unpacking a delta's matrices: `training.draft.packing` stores them as differences to the layers they started from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flexspec_mq.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUP = 64
"""Columns of a row that share a scale."""
WIDTHS = (4, 8)
"""Bits that a weight may have."""
LEVELS, SCALES = ".levels", ".scales"
"""Ends of the names of a packed matrix's two tensors."""


def unpack(
    tensors: Mapping[str, torch.Tensor],
    layers: Mapping[str, torch.Tensor],
    n: int,
    start: Sequence[int],
    bits: int,
) -> dict[str, torch.Tensor]:
    """Whole matrices, bfloat16, from the levels and scales that ``training.draft.packing.pack`` made.

    Raises:
        ModelError: The tensors do not belong to these layers.
    """
    whole = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALES):
            continue
        if not name.endswith(LEVELS):
            whole[name] = tensor
            continue
        plain = name.removesuffix(LEVELS)
        origin = origin_of(plain, n, start) or ""
        if origin not in layers or plain + SCALES not in tensors:
            raise ModelError(f"the delta has {name}, but its scales or its layer of the base are missing")
        base = layers[origin].float()
        added = dequantise(tensor, tensors[plain + SCALES], base.shape[1], bits)
        if added.shape != base.shape:
            raise ModelError("a packed matrix has another shape than the layer it started from")
        whole[plain] = (base + added).bfloat16()
    return whole


def dequantise(levels: torch.Tensor, scales: torch.Tensor, columns: int, bits: int) -> torch.Tensor:
    """The matrix, of so many columns, that ``training.draft.packing.quantise`` rounded, float32.

    Raises:
        ModelError: The shapes do not belong together.
    """
    top = top_level(bits)
    stored = -(-columns // 2) if bits == 4 else columns
    shapes = (levels.shape[0], stored), (levels.shape[0], -(-columns // GROUP))
    if levels.dtype != torch.uint8 or (tuple(levels.shape), tuple(scales.shape)) != shapes:
        raise ModelError("a packed matrix has another shape than the layer it started from")
    if bits == 4:
        levels = torch.stack((levels & 15, levels >> 4), dim=-1).view(levels.shape[0], -1)[:, :columns]
    steps = scales.float().repeat_interleave(GROUP, dim=1)[:, :columns]
    return (levels.float() - (top + 1)) * steps


def origin_of(name: str, n: int, start: Sequence[int]) -> str | None:
    """The base's name of the tensor that one of a block started from; None for what is not in a block."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"]:
        return None
    block = int(parts[2]) - n
    if not 0 <= block < len(start):
        raise ModelError(f"the delta has {name}, but only {len(start)} blocks above {n} layers")
    return ".".join((*parts[:2], str(start[block]), *parts[3:]))


def top_level(bits: int) -> int:
    """The largest level of so many bits.

    Raises:
        UsageError: There are none for so many.
    """
    if bits not in WIDTHS:
        raise UsageError(f"a delta cannot be packed in {bits} bits", hint="choose 4 or 8")
    return (1 << (bits - 1)) - 1
