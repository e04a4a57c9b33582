"""The draft's shape: the base's first ``n`` layers, a trained block and norm, the base's own LM head.

It is an ordinary causal LM of ``n + 1`` layers, so whatever loads the base's architecture loads it too. The
block starts as a copy of the base's last layer: it already speaks to the norm and the LM head.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from flexspec_mq.errors import ModelError
from flexspec_mq.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel


def load_causal_lm(path: Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Load a local checkpoint for inference, with attention by torch's scaled dot product.

    Raises:
        ModelError: The folder holds no causal LM that transformers can load.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
            )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load a causal LM from {path}: {error}",
            hint="point it to a folder with config.json and model.safetensors",
        ) from error
    return cast("PreTrainedModel", cast("nn.Module", model).eval())


def check_llama_like(model: nn.Module) -> None:
    """Refuse models whose parts are not where Llama has them.

    Raises:
        ModelError: A part is missing.
    """
    inner = getattr(model, "model", None)
    parts = {
        "model.embed_tokens": getattr(inner, "embed_tokens", None),
        "model.layers": getattr(inner, "layers", None),
        "model.norm": getattr(inner, "norm", None),
        "model.rotary_emb": getattr(inner, "rotary_emb", None),
        "lm_head": getattr(model, "lm_head", None),
    }
    missing = [name for name, part in parts.items() if not isinstance(part, nn.Module)]
    if missing:
        raise ModelError(
            f"{type(model).__name__} is not built like Llama: it has no {', '.join(missing)}",
            hint="the draft needs a decoder-only model with rotary positions: Llama, SmolLM2, Qwen2",
        )


def build_draft(base: PreTrainedModel, n: int) -> PreTrainedModel:
    """Copy ``n`` backbone layers of the base and put its last layer on top.

    The result is in the base's dtype; only its block and norm require gradients (see ``trained_parameters``).

    Raises:
        ModelError: The base is not built like Llama or has no more than ``n`` layers.
    """
    check_llama_like(base)
    depth = len(_inner(base).layers)
    if not 0 < n < depth:
        hint = f"choose 1 to {depth - 1}"
        raise ModelError(f"a backbone of {n} layers does not fit a base of {depth}", hint=hint)
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = n + 1
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [*config.layer_types[:n], config.layer_types[depth - 1]]
    # The public way to make a model from a configuration goes through a class that need not be the base's.
    draft: nn.Module = cast("Any", type(base))._from_config(config, dtype=base.dtype)  # noqa: SLF001
    state = {}
    for name, tensor in base.state_dict().items():
        renamed = draft_name(name, n, depth)
        if renamed is not None:
            state[renamed] = tensor
    draft.load_state_dict(state)
    draft.requires_grad_(requires_grad=False)
    for _, parameter in trained_parameters(draft, n):
        parameter.requires_grad_()
    return cast("PreTrainedModel", draft.eval())


def draft_name(name: str, n: int, depth: int) -> str | None:
    """Where a tensor of a base of ``depth`` layers goes in the draft: None if it is left out."""
    prefix = "model.layers."
    if not name.startswith(prefix):
        return name
    layer, rest = name[len(prefix) :].split(".", 1)
    if int(layer) < n:
        return name
    return f"{prefix}{n}.{rest}" if int(layer) == depth - 1 else None


def is_trained(name: str, n: int) -> bool:
    """Whether a tensor of the draft is trained, and so is in the delta: the block's and the final norm's."""
    return name.startswith((f"model.layers.{n}.", "model.norm."))


def trained_parameters(draft: nn.Module, n: int) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of block and norm, in a fixed order."""
    return ((name, p) for name, p in sorted(draft.named_parameters()) if is_trained(name, n))


def run_head(draft: nn.Module, n: int, states: torch.Tensor) -> torch.Tensor:
    """Run block and norm on backbone outputs.

    Rows start at position 0 and may be padded on the right: attention is causal, so padding reaches no token.

    Args:
        draft: From ``build_draft``.
        n: Its backbone layers.
        states: Outputs of layer ``n - 1``, shape ``(rows, positions, width)``.

    Returns:
        Final hidden states before the LM head, of the same shape.
    """
    inner = _inner(draft)
    positions = torch.arange(states.shape[1], device=states.device)[None]
    rotary = inner.rotary_emb(states, positions)
    out = inner.layers[n](states, attention_mask=None, position_ids=positions, position_embeddings=rotary)
    return cast("torch.Tensor", inner.norm(out[0] if isinstance(out, tuple) else out))


@torch.inference_mode()
def teacher_states(base: nn.Module, n: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward of the base over whole rows, padded on the right.

    Args:
        base: The teacher.
        n: Backbone layers of the draft.
        ids: Shape ``(rows, positions)``.

    Returns:
        Outputs of layer ``n - 1`` and final hidden states after the norm, each ``(rows, positions, width)``.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        kept.append(out[0] if isinstance(out, tuple) else out)

    inner = _inner(base)
    hook = inner.layers[n - 1].register_forward_hook(keep)
    try:
        final = inner(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    return kept[0], final


def lm_head_weight(model: nn.Module) -> torch.Tensor:
    """The LM head's matrix, shape ``(vocabulary, width)``, without gradient."""
    return cast("torch.Tensor", cast("Any", model).lm_head.weight.detach())


def _inner(model: nn.Module) -> Any:
    return cast("Any", model).model
