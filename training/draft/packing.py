"""Writing deltas, whole or smaller: matrices as the difference to the layer they started from, in 4 or 8 bits.

Training moves a block's weights a little, so their difference to the start needs fewer bits than they do.
Each row is cut into groups of 64 columns, each with a float16 scale, and weights are rounded to whole
multiples of it, symmetric around 0 (the plain form of the block formats of GGUF, without their zero points).
Norms, which are small anyway, are stored whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.delta import (
    GROUP,
    LEVELS,
    METADATA_KEY,
    SCALES,
    DeltaMeta,
    origin_of,
    read_delta,
    read_start,
    top_level,
)
from flexspec_mq.models.weights import fingerprint_of

_LARGEST = 60_000.0
"""Scales above this are refused: float16 ends at 65,504."""


def quantise(matrix: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to few bits.

    No weight moves by more than half its group's scale, and a scale exceeds the group's largest magnitude /
    (2^(bits-1) - 1) only by float16's rounding, upwards.

    Args:
        matrix: Floats, shape ``(rows, columns)``.
        bits: 4 or 8.

    Returns:
        Levels, uint8 of shape ``(rows, columns)``, or for 4 bits two to a byte, the lower half first,
        ``(rows, ceil(columns / 2))``; 2^(bits-1) is added to each, so that they are not negative. Scales,
        float16 of shape ``(rows, ceil(columns / 64))``.

    Raises:
        ModelError: A weight is not finite, or too large for a float16 scale.
    """
    top = top_level(bits)
    rows, columns = matrix.shape
    groups = -(-columns // GROUP)
    cut = torch.zeros(rows, groups * GROUP)
    cut[:, :columns] = matrix
    cut = cut.view(rows, groups, GROUP)
    wanted = cut.abs().amax(-1) / top
    if not bool((wanted < _LARGEST).all()):
        raise ModelError("a weight is not finite or too large to be packed", hint="train with a lower rate")
    scales = _half_upwards(wanted)
    step = scales.float()
    levels = torch.where(step[..., None] > 0, cut / step.clamp_min(1e-30)[..., None], 0.0)
    whole = (levels.round().clamp(-top, top) + (top + 1)).to(torch.uint8).view(rows, -1)[:, :columns]
    return (_pairs(whole) if bits == 4 else whole.contiguous()), scales


def pack(
    tensors: Mapping[str, torch.Tensor],
    layers: Mapping[str, torch.Tensor],
    n: int,
    start: Sequence[int],
    bits: int,
) -> dict[str, torch.Tensor]:
    """Replace the matrices of trained blocks by levels and scales of what training added to them.

    Args:
        tensors: tensors of a delta that is not packed.
        layers: The base's layers ``start``, with the base's names.
        n: Backbone layers.
        start: The layers that the blocks started from, bottom up.
        bits: 4 or 8.

    Raises:
        ModelError: A matrix has no counterpart of its shape in the base, or cannot be packed.
    """
    packed = {}
    for name, tensor in tensors.items():
        origin = origin_of(name, n, start)
        if origin is None or tensor.ndim != 2:
            packed[name] = tensor
            continue
        if origin not in layers or layers[origin].shape != tensor.shape:
            raise ModelError(f"the base has no {origin} of the shape of {name}")
        levels, scales = quantise(tensor.float() - layers[origin].float(), bits)
        packed[name + LEVELS], packed[name + SCALES] = levels, scales
    return packed


def save_delta(path: Path, tensors: Mapping[str, torch.Tensor], meta: DeltaMeta) -> Path:
    """Write blocks and norm, named as in the draft; replaces the file atomically.

    Args:
        path: Where to; its folder is made.
        tensors: See ``architecture.is_trained``; float32 is written as bfloat16, all else as it is.
        meta: Goes into the file's header as JSON.

    Returns:
        ``path``.
    """
    from safetensors.torch import save_file

    plain = {
        name: (tensor.detach().bfloat16() if tensor.dtype == torch.float32 else tensor.detach()).contiguous()
        for name, tensor in tensors.items()
    }
    with whole(path) as part:
        save_file(plain, part, metadata={METADATA_KEY: json.dumps(asdict(meta), sort_keys=True)})
        part.chmod(0o644)
    return path


def pack_file(delta_path: Path, base_path: Path, out: Path, bits: int) -> None:
    """Write a packed delta.

    Args:
        delta_path: A delta that is not packed yet.
        base_path: Checkpoint folder of the base that it was trained on.
        out: The file to write.
        bits: 4 or 8.

    Raises:
        ModelError: A file is unreadable, or packed already.
    """
    meta, tensors = read_delta(delta_path)
    if meta.bits is not None:
        raise ModelError(
            f"{delta_path} is packed already, in {meta.bits} bits", hint="pack the delta of the training"
        )
    layers = read_start(base_path, meta.start)
    packed = pack(tensors, layers, meta.n, meta.start, bits)
    save_delta(
        out, packed, replace(meta, bits=bits, start_fingerprint=fingerprint_of(sorted(layers.items())))
    )


def _half_upwards(values: torch.Tensor) -> torch.Tensor:
    """The least float16 that is not below each non-negative value: the largest weight keeps its level."""
    half = values.half()
    above = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.float() < values, above, half)


def _pairs(levels: torch.Tensor) -> torch.Tensor:
    """Two levels to a byte; an odd last column stands alone."""
    if levels.shape[1] % 2:
        levels = torch.nn.functional.pad(levels, (0, 1), value=8)
    return (levels[:, ::2] | (levels[:, 1::2] << 4)).contiguous()
