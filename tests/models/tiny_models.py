"""Models with larger random weights than usual, and walks of several sessions through a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flexspec_mq.models.runner import ModelInput

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}


def drawn(model: Any) -> Any:
    """Larger random weights than usual, norms and biases too: nothing that could be left out goes unnoticed."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, 0.12)
            else:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


Family = tuple[type[Any], type[Any]]
LLAMA: Family = (LlamaForCausalLM, LlamaConfig)
MODELS: dict[str, tuple[Family, dict[str, Any]]] = {
    "llama": (LLAMA, {}),
    "tied, biases everywhere": (
        LLAMA, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "wide heads, all keys": (LLAMA, {"num_key_value_heads": 4, "head_dim": 32}),
    "wide heads, blocks that are not full": (
        LLAMA, {"head_dim": 32, "intermediate_size": 144, "rope_parameters": LLAMA3},
    ),
    "llama3": (LLAMA, {"rope_parameters": LLAMA3}),
    "linear": (LLAMA, {"rope_parameters": LINEAR}),
    "qwen2": ((Qwen2ForCausalLM, Qwen2Config), {}),
    "qwen3": ((Qwen3ForCausalLM, Qwen3Config), {"head_dim": 32}),
}  # fmt: skip


def built(kind: str) -> Any:
    (model, config), changes = MODELS[kind]
    return drawn(model(config(**{**SIZES, **changes})))


def walks(longest: int) -> st.SearchStrategy[list[list[tuple[int, int]]]]:
    """Forwards of up to four sessions: which, and how many tokens of the text each reads."""
    share = st.tuples(st.integers(0, 3), st.integers(1, longest))
    step = st.lists(share, min_size=1, max_size=4, unique_by=lambda share: share[0])
    return st.lists(step, min_size=1, max_size=8)


def check_any_walk(
    model: Any,
    text: Sequence[int],
    steps: list[list[tuple[int, int]]],
    back: int,
    near: Callable[[Any, list[int]], bool],
) -> None:
    """Sessions read the text in pieces beside each other, stray and roll back; `near` compares rows of the text."""
    kvs = [model.new_kv() for _ in range(4)]
    for step in steps:
        inputs: list[ModelInput[Any]] = []
        places: list[int] = []
        for session, share in step:
            kv = kvs[session]
            tokens = text[kv.length : kv.length + share]
            if tokens:
                places += range(kv.length, kv.length + len(tokens))
                inputs.append(ModelInput(kv, tokens, len(tokens)))
        if not inputs:
            continue
        assert near(model.forward(inputs), places)
        first = kvs[step[0][0]]
        kept = first.length
        model.forward([ModelInput(first, [319] * 3, 0)])
        first.roll_back(max(0, kept - back))


def check_rows(model: Any, text: Sequence[int], near: Callable[[Any, list[int]], bool]) -> None:
    """A forward has the rows that are asked for, of inputs of any length; `near` compares rows of the text."""
    shares = ((9, 2), (5, 0), (len(text), 80), (7, 1))
    logits = model.forward([ModelInput(model.new_kv(), text[:count], rows) for count, rows in shares])
    assert (logits.shape, str(logits.dtype).removeprefix("torch.")) == ((83, 320), "float32")
    assert near(logits, [place for count, rows in shares for place in range(count - rows, count)])
    assert model.forward([ModelInput(model.new_kv(), text[:5], 0)]).shape == (0, 320)
