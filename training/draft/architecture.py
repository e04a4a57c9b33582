"""The draft's shape: the base's first ``n`` layers, trained blocks and norm, the base's own LM head.

It is an ordinary causal LM of fewer layers, so whatever loads the base's architecture loads it too. The
blocks start as copies of layers of the base. With ``n`` = 0 all layers are trained.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from flexspec_mq.errors import ModelError


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


def build_draft(base: PreTrainedModel, n: int, start: Sequence[int] | None = None) -> PreTrainedModel:
    """Copy ``n`` backbone layers of the base and put trained blocks on top.

    The result is in the base's dtype; only its blocks and norm require gradients (see
    ``trained_parameters``).

    Args:
        base: The base.
        n: Backbone layers.
        start: The base's layers, counted from 0, that the trained blocks start as copies of, bottom up; by
            default one, the base's last, which already speaks to the norm and the LM head.

    Raises:
        ModelError: The base is not built like Llama or has not these layers.
    """
    check_llama_like(base)
    depth = len(_inner(base).layers)
    start = (depth - 1,) if start is None else tuple(start)
    check_start(n, start, depth)
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = n + len(start)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [*config.layer_types[:n], *(config.layer_types[layer] for layer in start)]
    # The public way to make a model from a configuration goes through a class that need not be the base's.
    draft: nn.Module = cast("Any", type(base))._from_config(config, dtype=base.dtype)  # noqa: SLF001
    state = {}
    for name, tensor in base.state_dict().items():
        for renamed in draft_names(name, n, start):
            state[renamed] = tensor
    draft.load_state_dict(state)
    draft.to(base.device)
    draft.requires_grad_(requires_grad=False)
    for _, parameter in trained_parameters(draft, n):
        parameter.requires_grad_()
    return cast("PreTrainedModel", draft.eval())


def check_start(n: int, start: Sequence[int], depth: int) -> None:
    """Refuse a shape that a base of ``depth`` layers cannot give.

    Raises:
        ModelError: Says what would do.
    """
    if not 0 <= n < depth:
        hint = f"choose 0 to {depth - 1}"
        raise ModelError(f"a backbone of {n} layers does not fit a base of {depth}", hint=hint)
    if not start:
        raise ModelError(
            "the draft needs a trained block", hint="start at least one from a layer of the base"
        )
    wrong = [layer for layer in start if not 0 <= layer < depth]
    if wrong:
        raise ModelError(f"a base of {depth} layers has no layer {wrong[0]}", hint=f"choose 0 to {depth - 1}")


def start_layers(n: int, blocks: int, depth: int) -> tuple[int, ...]:
    """Layers of the base, evenly spread above the backbone, that trained blocks start as copies of, bottom up.

    The base's last layer is among them.

    Args:
        n: Backbone layers.
        blocks: How many blocks.
        depth: Layers of the base.

    Raises:
        ModelError: There are not so many layers.
    """
    if not 0 < blocks <= depth - n:
        raise ModelError(
            f"{blocks} trained blocks do not fit above {n} of {depth} layers",
            hint=f"choose 1 to {max(1, depth - n)}",
        )
    return tuple(depth - 1 - round(i * (depth - n) / blocks) for i in reversed(range(blocks)))


def draft_names(name: str, n: int, start: Sequence[int]) -> list[str]:
    """Where a tensor of the base goes in the draft; nowhere if it is left out."""
    prefix = "model.layers."
    if not name.startswith(prefix):
        return [name]
    layer, rest = name[len(prefix) :].split(".", 1)
    places = [n + i for i, source in enumerate(start) if source == int(layer)]
    if int(layer) < n:
        places.append(int(layer))
    return [f"{prefix}{place}.{rest}" for place in sorted(places)]


def is_trained(name: str, n: int) -> bool:
    """Whether a tensor of the draft is trained, and so is in the delta: the blocks' and the final norm's."""
    if name.startswith("model.layers."):
        return int(name.split(".")[2]) >= n
    return name.startswith("model.norm.")


def trained_parameters(draft: nn.Module, n: int) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of blocks and norm, in a fixed order."""
    return ((name, p) for name, p in sorted(draft.named_parameters()) if is_trained(name, n))


def run_head(draft: nn.Module, n: int, states: torch.Tensor) -> torch.Tensor:
    """Run trained blocks and norm on backbone outputs.

    Rows start at position 0 and may be padded on the right: attention is causal, so padding reaches no token.

    Args:
        draft: From ``build_draft``.
        n: Number of its backbone layers.
        states: Outputs of layer ``n - 1``, or of the embedding, shape ``(rows, positions, width)``.

    Returns:
        Final hidden states before the LM head, of the same shape.
    """
    inner = _inner(draft)
    positions = torch.arange(states.shape[1], device=states.device)[None]
    rotary = inner.rotary_emb(states, positions)
    for layer in inner.layers[n:]:
        out = layer(states, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        states = out[0] if isinstance(out, tuple) else out
    return cast("torch.Tensor", inner.norm(states))


@torch.inference_mode()
def teacher_states(base: nn.Module, n: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one forward of the base over whole rows, padded on the right.

    Args:
        base: The teacher.
        n: Backbone layers of the draft.
        ids: Shape ``(rows, positions)``.

    Returns:
        Outputs of layer ``n - 1``, of the embedding where ``n`` is 0, and final hidden states after the norm, each
        ``(rows, positions, width)``.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        kept.append(out[0] if isinstance(out, tuple) else out)

    inner = _inner(base)
    last = inner.layers[n - 1] if n else inner.embed_tokens
    hook = last.register_forward_hook(keep)
    try:
        final = inner(input_ids=ids.to(inner.device), use_cache=False).last_hidden_state
    finally:
        hook.remove()
    return kept[0], final


def lm_head_weight(model: nn.Module) -> torch.Tensor:
    """The LM head's matrix, shape ``(vocabulary, width)``, without gradient."""
    return cast("torch.Tensor", cast("Any", model).lm_head.weight.detach())


def _inner(model: nn.Module) -> Any:
    return cast("Any", model).model
