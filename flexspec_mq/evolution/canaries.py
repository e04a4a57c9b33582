"""A base with a head on it, as transformers and peft compute it: what it writes, and how much of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexspec_mq.errors import how_to_install
from flexspec_mq.heads.manifest import Canary, HeadError
from flexspec_mq.models.checkpoint import first_line, quiet_transformers
from flexspec_mq.models.head_files import FULL
from flexspec_mq.models.load import load_target


def need_peft() -> Any:
    """The library peft.

    Raises:
        HeadError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise HeadError(
            "LoRA heads need peft", hint=f"install it, {how_to_install(distribution='training')}"
        ) from error
    return peft


def load_with_head(base: Path, head: Path | None, *, kind: str, dtype: str, device: str = "cpu") -> Any:
    """The base with a head on it, all in one dtype.

    Without a head it is the base. Kind and dtype are as in a manifest.

    Raises:
        ModelError: something cannot be loaded.
    """
    model: Any = load_target(base, dtype=dtype, device=device).model
    if head is None or kind == "base":
        return model
    if kind == "lora":
        return _with_adapter(model, head)
    from safetensors.torch import load_file

    tensors = load_file(head / FULL)
    if "lm_head.weight" in tensors:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise HeadError(f"the head has {unknown[0]}, which the base has not")
    return model


def _with_adapter(model: Any, head: Path) -> Any:
    peft = need_peft()
    try:
        with quiet_transformers():
            # Rounded as it is stored: peft would make float32 of it.
            loaded = peft.PeftModel.from_pretrained(
                model, head, autocast_adapter_dtype=False, use_safetensors=True
            )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise HeadError(
            f"peft cannot load {head}: {first_line(error)}", hint="save the adapter again"
        ) from error
    return loaded.to(model.device)


@torch.inference_mode()
def greedy(
    model: Any, prompts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]
) -> list[tuple[int, ...]]:
    """Write greedily, up to a token that ends a text.

    Args:
        model: any causal LM.
        prompts: token ids; they share forwards, with the shorter ones padded on the left.
        tokens: most tokens of a text.
        ends: ids that end a text.
    """
    from transformers import GenerationConfig

    longest = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (longest - len(p)), *p] for p in prompts], device=model.device)
    seen = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts], device=model.device)
    # What the makers recommend for sampling has no say here.
    generation: Any = GenerationConfig
    model.generation_config = generation()
    config = generation(max_new_tokens=tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
    with quiet_transformers():
        out = model.generate(input_ids=ids, attention_mask=seen, generation_config=config)
    return [_ended(text, ends) for text in out[:, longest:].tolist()]


@torch.inference_mode()
def share(model: Any, canaries: Sequence[Canary]) -> float:
    """Share of the canaries' tokens that are the model's likeliest, each behind the text before it (0-1)."""
    same = total = 0
    for canary in canaries:
        ids = torch.tensor([[*canary.prompt, *canary.text[:-1]]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(canary.text)).logits[0]
        same += int((logits.argmax(-1).cpu() == torch.tensor(canary.text)).sum())
        total += len(canary.text)
    return same / total


def _ended(text: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    places = [place for place, token in enumerate(text) if token in ends]
    return tuple(text[: places[0] + 1] if places else text)


@torch.no_grad()
def shuffle(model: Any, names: Sequence[str], seed: int = 0) -> None:
    """Put the numbers of some weights into a random order, each weight's among themselves."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    for name in names:
        weight = weights[name]
        order = torch.randperm(weight.numel(), generator=generator)
        weight.copy_(weight.flatten()[order.to(weight.device)].view_as(weight))


def head_weights(model: Any, kind: str, head: Path) -> list[str]:
    """Names of the parameters that a head brings to a model of `load_with_head`."""
    if kind == "lora":
        return [
            name for name, _ in model.named_parameters() if ".lora_" in name or ".modules_to_save." in name
        ]
    from safetensors import safe_open

    with safe_open(head / FULL, framework="pt") as file:
        return sorted(file.keys())
