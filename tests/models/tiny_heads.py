"""Random heads of tiny models: adapters that the real peft saved, and upper layers tuned in full."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from flexspec_mq.models.head_files import FULL as WEIGHTS
from flexspec_mq.models.load import load_target

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_lora(
    base: Path,
    folder: Path,
    *,
    rank: int,
    floor: int,
    seed: int = 1,
    save: dict[str, Any] | None = None,
    size: float = 0.08,
    **options: Any,
) -> Path:
    """An adapter of a checkpoint, with weights that change what the base says."""
    network = load_target(base, dtype="float32").model
    count = network.config.num_hidden_layers
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(ALL),
        "layers_to_transform": list(range(floor, count)),
        **options,
    }
    torch.manual_seed(seed)
    adapted = get_peft_model(network, LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, size)
            elif "modules_to_save" in name:
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
    adapted.save_pretrained(str(folder), **(save or {}))
    return folder


def with_lora(network: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A model of transformers with an adapter that peft put in, in the model's own dtype."""
    PeftModel.from_pretrained(network, str(folder), autocast_adapter_dtype=False)
    return network


def save_full(base: Path, folder: Path, *, floor: int, ends: bool = True, seed: int = 2) -> Path:
    """Upper layers of a checkpoint, each weight changed by a fifth."""
    torch.manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    kept = {}
    for name, weight in tensors.items():
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else None
        upper = layer is not None and layer >= floor
        if upper or (ends and name in {"model.norm.weight", "lm_head.weight"}):
            kept[name] = weight * (1 + 0.2 * torch.randn_like(weight))
    folder.mkdir(parents=True)
    save_file(kept, folder / WEIGHTS)
    return folder
