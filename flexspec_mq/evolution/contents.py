"""What a head's files hold, compared with what a head may touch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from flexspec_mq.heads.manifest import MANIFEST, HeadError, Manifest
from flexspec_mq.models.draft.delta import read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
FULL = "head.safetensors"
FILES = {"base": set[str](), "lora": {CONFIG, ADAPTER}, "full": {FULL}}

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_WHOLE = re.compile(r"base_model\.model\.((?:model\.norm|lm_head)\.weight)")
_PROJECTION = re.compile(r"model\.layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj|lm_head")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_rslora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
}
"""Fields of a PEFT configuration that decide what is computed, and what they may say."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a head changes.

    Attributes:
        layers: that it changes, ascending.
        others: final norm and LM head, as far as it changes them, by their names in the base.
        parameters: numbers in the head's weights.
    """

    layers: tuple[int, ...]
    others: tuple[str, ...]
    parameters: int


def check_contents(folder: Path, manifest: Manifest, base: Path) -> Touched:
    """Refuse a head that holds something else than its manifest and its base allow.

    Args:
        folder: of the head, whose files are those of the manifest (`read_head`).
        manifest: of the head.
        base: checkpoint folder.

    Raises:
        HeadError: says which file, field or tensor is wrong.
        ModelError: the base cannot be read.
    """
    listed = {file.name for file in manifest.files}
    if listed != FILES[manifest.kind]:
        wrong = ", ".join(sorted(listed ^ FILES[manifest.kind]))
        raise HeadError(
            f"a head of kind {manifest.kind} has the files {_names(manifest.kind)}; it differs by {wrong}"
        )
    strange = sorted(path.name for path in folder.iterdir() if path.name not in {*listed, MANIFEST})
    if strange:
        raise HeadError(f"{folder} holds {strange[0]}, which the manifest does not list", hint="remove it")
    if manifest.kind == "base":
        return Touched((), (), 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in read_tensors(base, lambda _name: True).items()}
    if "lm_head.weight" not in shapes and "model.embed_tokens.weight" in shapes:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    tensors = _read(folder / (ADAPTER if manifest.kind == "lora" else FULL), manifest)
    if manifest.kind == "lora":
        names = _check_lora(tensors, shapes, _rank(folder))
    else:
        names = _check_full(tensors, shapes, manifest.floor)
    layers = sorted({int(found[1]) for name in names if (found := _LAYER.match(name))})
    if layers and layers[0] < manifest.floor:
        raise HeadError(
            f"the head changes layer {layers[0]}, below its floor {manifest.floor}",
            hint="train it above the floor",
        )
    others = sorted(name for name in names if not _LAYER.match(name))
    return Touched(tuple(layers), tuple(others), sum(tensor.numel() for tensor in tensors.values()))


def _names(kind: str) -> str:
    return " and ".join(sorted(FILES[kind])) or "none"


def _read(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise HeadError(f"{path} is no safetensors file: {error}") from error
    wanted: torch.dtype = getattr(torch, manifest.dtype)
    for name, tensor in tensors.items():
        if tensor.dtype != wanted:
            raise HeadError(
                f"{name} is of {str(tensor.dtype).removeprefix('torch.')}, the head of {manifest.dtype}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise HeadError(f"{name} holds numbers that are infinite or none")
    return tensors


def _rank(folder: Path) -> int:
    """Of the adapter's matrices, once its configuration says nothing that is not computed."""
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise HeadError(f"{folder / CONFIG} cannot be read: {error}") from error
    for field, allowed in _NEUTRAL.items():
        if field in config and config[field] not in allowed:
            raise HeadError(f"{CONFIG} has {field} = {config[field]!r}; heads may have {allowed[0]!r} only")
    if wrong := set(config.get("modules_to_save") or ()) - {"model.norm", "lm_head"}:
        raise HeadError(f"{CONFIG} saves {min(wrong)} in whole; heads may model.norm and lm_head")
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1 or not isinstance(config.get("lora_alpha"), int | float):
        raise HeadError(f"{CONFIG} has no rank or no alpha")
    return rank


def _check_lora(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], rank: int
) -> list[str]:
    """Names in the base of the weights that an adapter changes."""
    sides: dict[str, set[str]] = {}
    names: list[str] = []
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if found := _LORA.fullmatch(name):
            module, side = found[1], found[2]
            weight = shapes.get(f"{module}.weight")
            if weight is None or not _PROJECTION.fullmatch(module):
                raise HeadError(f"the head changes {module}, which heads may not")
            if shape != ((rank, weight[1]) if side == "A" else (weight[0], rank)):
                raise HeadError(
                    f"{name} has shape {list(shape)}, which does not fit rank {rank} and the base"
                )
            sides.setdefault(module, set()).add(side)
        elif found := _WHOLE.fullmatch(name):
            if shape != shapes.get(found[1]):
                raise HeadError(f"{name} has shape {list(shape)}, not the base's")
            names.append(found[1])
        else:
            raise HeadError(f"the head has {name}, which heads may not")
    for module, found_sides in sides.items():
        if found_sides != {"A", "B"}:
            raise HeadError(f"the head has one of two matrices for {module}")
        names.append(f"{module}.weight")
    if not names:
        raise HeadError("the head is empty")
    return names


def _check_full(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], floor: int
) -> list[str]:
    """Names of a full head's weights, which are the base's."""
    may = {name for name in shapes if (found := _LAYER.match(name)) and int(found[1]) >= floor}
    for name, tensor in tensors.items():
        if name not in {*may, "model.norm.weight", "lm_head.weight"}:
            raise HeadError(f"the head has {name}, which heads may not from layer {floor} on")
        if tuple(tensor.shape) != shapes.get(name):
            raise HeadError(f"{name} has shape {list(tensor.shape)}, not the base's")
    if missing := sorted(may - tensors.keys()):
        raise HeadError(f"the head lacks {missing[0]}")
    return list(tensors)
