"""Tiny random models of the shapes that matter, packed, and the same weights with transformers' eager attention."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput

VOCABULARY = 128
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
HEADS = {"grouped": (4, 2), "all": (2, 2), "one": (4, 1)}
"""Heads of queries, KV heads."""
HEAD_SIZE = 64
"""Below 64 outputs a product of two rows takes another kernel than one of many."""


def tiny(
    heads: str,
    dtype: torch.dtype,
    *,
    window: int | None = None,
    attention: str | None = None,
    head_size: int = HEAD_SIZE,
    layers: int = 3,
) -> Any:
    """Layers of width 64; the same arguments give the same weights, whatever the attention."""
    torch.manual_seed(5)
    queries, keys = HEADS[heads]
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": layers,
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "head_dim": head_size,
        "max_position_embeddings": 4096,
        "attn_implementation": attention or register(),
    }
    made: Any
    if window is None:
        made = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        made = MistralForCausalLM(MistralConfig(**sizes, sliding_window=window))
    # The usual small start values give nearly flat logits, which hide errors.
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, 0.15)
    return made.to(dtype).eval()


def packed(heads: str, dtype: torch.dtype, shapes: Shapes | None = None) -> PackedModel:
    return PackedModel(tiny(heads, dtype), shapes)


def token_by_token(model: TargetModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits behind every id, [ids, vocabulary], read one by one and alone."""
    kv = model.new_kv()
    return torch.cat([model.forward([ModelInput(kv, [token])]) for token in ids])


def read(model: TargetModel, text: Sequence[int], pieces: Sequence[int], head: str = "") -> torch.Tensor:
    """Logits behind every id of the text, read in these pieces and what is left."""
    kv, rows = model.new_kv(), []
    for piece in (*pieces, len(text)):
        tokens = text[kv.length : kv.length + piece]
        if tokens:
            rows.append(model.forward([ModelInput(kv, tokens, len(tokens), head)]))
    return torch.cat(rows)
