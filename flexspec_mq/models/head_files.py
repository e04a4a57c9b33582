"""Files of a head: a LoRA adapter as PEFT saves it, or all weights of the layers from the floor on.

A head that this project would compute otherwise is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.head import (
    LM_HEAD,
    MODULES,
    NORM,
    FullHead,
    LoraDelta,
    LoraHead,
    check_layer,
    check_shape,
    full_name,
    module_shapes,
    read_safetensors,
)

if TYPE_CHECKING:
    import torch

    from flexspec_mq.models.shape import Shape

CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
FULL = "head.safetensors"
DRAFT = "draft_"
DRAFT_FILES = {f"{DRAFT}{CONFIG}", f"{DRAFT}{ADAPTER}"}
"""Names of the LoRA of a draft for the version, beside the head."""
MOST_RANK = 256
"""Largest rank of an addition. Kernels sum so many products in one order, wherever they stand."""

_NEUTRAL = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type",
    "use_rslora",
}  # fmt: skip
"""Settings that change nothing of what is computed from the weights, or are computed here."""
_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to draw the first weights that leave the base's alone."""
PREFIX = "base_model.model."
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ADDED = re.compile(r"(.+)\.lora_([AB])\.weight")


def read_weights(folder: Path, kind: str, sizes: Shape, floor: int) -> LoraHead | FullHead:
    """Read the weights of a head of kind ``lora`` or ``full``; see `read_lora` and `read_full`.

    Raises:
        HeadError: files are missing or damaged, or the head is not one that may be served.
    """
    return (read_lora if kind == "lora" else read_full)(folder, sizes, floor)


def read_lora(folder: Path, sizes: Shape, floor: int, before: str = "") -> LoraHead:
    """Read an adapter.

    Args:
        folder: folder with `CONFIG` and `ADAPTER`.
        sizes: sizes of the base.
        floor: the lowest layer that it may touch.
        before: beginning of the files' names.

    Returns:
        The head, in the dtype in which it was saved. The LM head may have an addition, or be another one as a whole.

    Raises:
        HeadError: files are missing or damaged, or the adapter touches what a head must not, does not fit the base,
            or is of a kind that is not computed here.
    """
    scale = _scale(read_config(folder / f"{before}{CONFIG}"))
    path = folder / f"{before}{ADAPTER}"
    if not path.is_file():
        raise HeadError(
            f"{folder} has no {path.name}",
            hint="pickle files are never read: save the adapter with save_pretrained(…, safe_serialization=True)",
        )
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in read_safetensors(path).items():
        ours = name.removeprefix(PREFIX)
        added = _ADDED.fullmatch(ours)
        if added is not None:
            pairs.setdefault(added[1], {})[added[2]] = tensor
        elif ours == NORM:
            whole[NORM] = check_shape(name, tensor, (sizes.width,))
        elif ours == LM_HEAD:
            whole[LM_HEAD] = check_shape(name, tensor, (sizes.vocab_size, sizes.width))
        else:
            raise _stranger(name, ours)
    if not pairs and not whole:
        raise HeadError(f"{path} has no weights", hint="train the adapter before you save it")
    layers: dict[int, dict[str, LoraDelta]] = {}
    lm_head: LoraDelta | torch.Tensor | None = whole.get(LM_HEAD)
    shapes = module_shapes(sizes)
    places = {full_name(module): module for module in MODULES}
    for target, pair in pairs.items():
        match = _LAYER.fullmatch(target)
        if target == "lm_head":
            lm_head = _delta(target, pair, (sizes.vocab_size, sizes.width), scale)
        elif match is None or match[2] not in places:
            raise HeadError(
                f"the adapter adds to {target}",
                hint=f"choose target_modules among {', '.join(f'{one}_proj' for one in MODULES)} and lm_head",
            )
        else:
            index, module = int(match[1]), places[match[2]]
            check_layer(target, index, sizes, floor)
            layers.setdefault(index, {})[module] = _delta(target, pair, shapes[module], scale)
    return LoraHead(layers, whole.get(NORM), lm_head)


def read_full(folder: Path, sizes: Shape, floor: int) -> FullHead:
    """Read upper layers.

    Args:
        folder: folder with `FULL`.
        sizes: sizes of the base.
        floor: the lowest layer that it may touch; it brings all layers from there on.

    Raises:
        HeadError: the file is missing or damaged, or the head touches what it must not, lacks a tensor, or does not
            fit the base.
    """
    if not (folder / FULL).is_file():
        raise HeadError(f"{folder} has no {FULL}", hint="pickle files are never read: save it as safetensors")
    shapes: dict[str, tuple[int, ...]] = {
        f"{full_name(name)}.weight": shape for name, shape in module_shapes(sizes).items()
    }
    optional: dict[str, tuple[int, ...]] = {
        f"{full_name(name)}.bias": shape[:1] for name, shape in module_shapes(sizes).items()
    }
    shapes |= dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (sizes.width,))
    optional |= dict.fromkeys(("self_attn.q_norm.weight", "self_attn.k_norm.weight"), (sizes.head,))
    ends = {NORM: (sizes.width,), LM_HEAD: (sizes.vocab_size, sizes.width)}
    tensors = read_safetensors(folder / FULL)
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is not None:
            check_layer(name, int(match[1]), sizes, floor)
        wanted = ends.get(name) if match is None else (shapes | optional).get(match[2])
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


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of an adapter.

    Raises:
        HeadError: it is missing, damaged, or of another kind of adapter.
    """
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HeadError(
            f"cannot read {path}: {error}", hint="a LoRA is a directory that PEFT saved"
        ) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise HeadError(f"{path} is not of a LoRA adapter", hint="train one with peft's LoraConfig")
    return config


def _scale(config: Mapping[str, Any]) -> Callable[[int], float]:
    """The scale of additions, by their ranks.

    Raises:
        HeadError: a setting asks for more than B(A(x)) times a scale.
    """
    strange = {
        name: value
        for name, value in config.items()
        if name not in _NEUTRAL and value and (name, value) != ("bias", "none")
    }
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        strange["init_lora_weights"] = start
    if strange:
        named = ", ".join(f"{name}={value!r}" for name, value in sorted(strange.items()))
        raise HeadError(
            f"the adapter was made with {named}, which is not computed here", hint="train it with plain LoRA"
        )
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise HeadError(
            f"the adapter's lora_alpha is {alpha!r}, not a number", hint="save it with peft again"
        )
    number, root = float(alpha), bool(config.get("use_rslora"))
    return lambda rank: number / (math.sqrt(rank) if root else rank)


def _delta(
    target: str, pair: Mapping[str, torch.Tensor], shape: tuple[int, int], scale: Callable[[int], float]
) -> LoraDelta:
    if set(pair) != {"A", "B"}:
        raise HeadError(f"{target} has one half of its addition only", hint="save the adapter again")
    down, up = pair["A"], pair["B"]
    rank = down.shape[0] if down.dim() == 2 else 0
    if not 0 < rank <= MOST_RANK:
        raise HeadError(f"{target} has an addition of rank {rank}", hint=f"ranks go from 1 to {MOST_RANK}")
    check_shape(f"{target}.lora_A", down, (rank, shape[1]))
    check_shape(f"{target}.lora_B", up, (shape[0], rank))
    return LoraDelta(down, up, scale(rank))


def _stranger(name: str, ours: str) -> HeadError:
    if ours.endswith("norm.weight"):
        return HeadError(
            f"the adapter replaces {name}, a norm inside of a layer",
            hint="modules_to_save=['norm'] means every layer's norms too: write modules_to_save=['model.norm']",
        )
    if ours.startswith(("lm_head.base_layer", "model.embed_tokens")):
        return HeadError(
            f"the adapter brings {name}, which belongs to the base",
            hint="`flexspec head import` leaves a copy of it out; no head may have one that was trained",
        )
    return HeadError(
        f"the adapter brings {name}, which no head may change",
        hint="beside additions of LoRA there may be modules_to_save=['model.norm', 'lm_head']",
    )
