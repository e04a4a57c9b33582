"""A draft's delta: the file that ships, what it says about itself, and which base it belongs to.

The file holds what training changed: blocks and norm, whole or, for the blocks' matrices, in few bits as the
difference to the base's layers that they started from (see ``unpack``). No model runs here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import FingerprintError, ModelError, UsageError
from flexspec_mq.models.weights import Tensors, fingerprint_of

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 2
RANKS = "token_ranks"
"""Token ids by falling frequency in the training text, int32: what a trimmed LM head keeps. In the delta a
tensor, in the checkpoint folder a file, ``token_ranks.npy``."""
METADATA_KEY = "flexspec_draft"
_EMBEDDING = "model.embed_tokens.weight"
GROUP = 64
"""Columns of a row that share a scale."""
WIDTHS = (4, 8)
"""Bits that a weight may have."""
LEVELS, SCALES = ".levels", ".scales"
"""Ends of the names of a packed matrix's two tensors."""


@dataclass(frozen=True, slots=True)
class DeltaMeta:
    """Description of a delta in its file.

    Attributes:
        base_fingerprint: ``base_fingerprint`` of the base it was trained on.
        n: Backbone layers below the trained blocks.
        start: The base's layers that the blocks started as copies of, bottom up.
        confidence: How likely the target takes a token of this draft, see ``confidence.Calibration``; None
            if nobody measured it.
        training: Facts about the training: tokens, seconds, measured acceptance. For people only.
        bits: Bits of a weight of the blocks' matrices, which are then stored as differences to the base's
            layers ``start``; None if they are stored whole.
        start_fingerprint: ``start_fingerprint`` of the base, if they are differences.
        format_version: Layout of the file.
    """

    base_fingerprint: str
    n: int
    start: tuple[int, ...]
    training: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, Any] | None = None
    bits: int | None = None
    start_fingerprint: str | None = None
    format_version: int = FORMAT_VERSION


def base_fingerprint(base_path: Path, n: int) -> str:
    """Fingerprint of all that a draft takes from its base unchanged, as `read_shared`."""
    return read_shared(base_path, n)[1]


def read_shared(base_path: Path, n: int) -> tuple[dict[str, torch.Tensor], str]:
    """All that a draft takes from its base unchanged, and its fingerprint.

    These are the embedding, the first ``n`` layers and, if it is not tied, the LM head. Versions of a target
    family agree on it, since their heads touch only what comes after.

    Raises:
        ModelError: The folder has no safetensors weights, or they are not named as Llama's.
    """

    def is_shared(name: str) -> bool:
        index = _layer(name)
        return name in {_EMBEDDING, "lm_head.weight"} if index is None else index < n

    weights = Tensors(base_path)
    tensors = {name: weights.read(name) for name in weights.names if is_shared(name)}
    if {_layer(name) for name in tensors} - {None} != set(range(n)) or _EMBEDDING not in tensors:
        raise ModelError(f"the base has no embedding or fewer than {n} layers under Llama's names")
    return tensors, fingerprint_of(tensors.items())


def read_start(base_path: Path, start: Sequence[int]) -> dict[str, torch.Tensor]:
    """The base's layers that blocks start from, with the base's names.

    Raises:
        ModelError: A layer is not there, or the folder has no safetensors weights.
    """
    weights = Tensors(base_path)
    tensors = {name: weights.read(name) for name in weights.names if _layer(name) in start}
    if missing := set(start) - {_layer(name) for name in tensors}:
        raise ModelError(f"{base_path} has no layer {', '.join(map(str, missing))} under Llama's names")
    return tensors


def _layer(name: str) -> int | None:
    """The layer that a tensor belongs to; None for what is in none."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else None


def read_meta(path: Path) -> DeltaMeta:
    """Read what a delta says about itself.

    Raises:
        ModelError: The file is missing, damaged, no delta, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[METADATA_KEY])
            version = int(facts["format_version"])
            # Only this format's fields are known.
            meta = meta_of(facts) if version == FORMAT_VERSION else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a draft delta: {error!r}", hint="make one with `flexspec draft train`"
        ) from error
    if meta is None:
        message = f"{path} has format {version}, this version reads {FORMAT_VERSION}"
        later = version > FORMAT_VERSION
        raise ModelError(message, hint="upgrade flexspec-mq" if later else "train the draft again")
    return meta


def meta_of(facts: Mapping[str, Any]) -> DeltaMeta:
    """From a plain JSON object; keys beside the fields are an error.

    Raises:
        KeyError, TypeError, ValueError: The object is of another kind.
    """
    return DeltaMeta(**{**facts, "start": tuple(int(layer) for layer in facts["start"])})


def read_delta(path: Path) -> tuple[DeltaMeta, dict[str, torch.Tensor]]:
    """Metadata and tensors of a delta, as they are stored.

    Raises:
        ModelError: As ``read_meta``.
    """
    from safetensors.torch import load_file

    return read_meta(path), load_file(path)


def load_delta(path: Path, base_path: Path) -> tuple[DeltaMeta, dict[str, torch.Tensor]]:
    """Metadata and whole tensors of a delta, packed or not; beside blocks and norm there may be ``RANKS``.

    The part of the base below the blocks is not checked here.

    Args:
        path: A delta's file.
        base_path: Checkpoint folder of the base, of which a packed delta needs the layers that the blocks
            start from.

    Raises:
        ModelError: A file is unreadable.
        FingerprintError: A packed delta belongs to other layers than the base has.
    """
    meta, tensors = read_delta(path)
    if meta.bits is None:
        return meta, tensors
    layers = read_start(base_path, meta.start)
    check_fingerprint(meta.start_fingerprint, fingerprint_of(layers.items()), path, base_path)
    return meta, unpack(tensors, layers, meta.n, meta.start, meta.bits)


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
    import torch

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
    layer = _layer(name)
    if layer is None:
        return None
    if not 0 <= layer - n < len(start):
        raise ModelError(f"the delta has {name}, but only {len(start)} blocks above {n} layers")
    return name.replace(f".{layer}.", f".{start[layer - n]}.", 1)


def top_level(bits: int) -> int:
    """The largest level of so many bits.

    Raises:
        UsageError: There are none for so many.
    """
    if bits not in WIDTHS:
        raise UsageError(f"a delta cannot be packed in {bits} bits", hint="choose 4 or 8")
    return (1 << (bits - 1)) - 1


def check_fingerprint(expected: str | None, actual: str, delta_path: Path, base_path: Path) -> None:
    """Refuse a base that the delta was not trained on.

    Raises:
        FingerprintError: The fingerprints differ.
    """
    if actual != expected:
        raise FingerprintError(
            f"{delta_path} was trained on another base than {base_path}: "
            f"expected fingerprint {expected}, found {actual}",
            hint="use the base it was made for, or train a draft for this one with `flexspec draft train`",
        )
