"""The architecture that a GGUF file describes, as a configuration of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError
from flexspec_mq.models.gguf.tokenizer import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

KINDS = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text", "phi3": "phi3", "smollm3": "smollm3",
}  # fmt: skip
"""Architecture of GGUF: `model_type` of transformers. Mistral is a llama."""
PAIRED = {"llama", "smollm3"}
"""Architectures whose files have queries and keys in pairs of rows that are turned together."""
SHIFTED = {"gemma3"}
"""Architectures whose files have norms' weights one higher than transformers."""

ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
"""Tensors that are part of the configuration here."""

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}

Factors = Mapping[str, npt.NDArray[np.float32]]


def read_config(facts: Mapping[str, Any], tensors: Mapping[str, Any], factors: Factors) -> PreTrainedConfig:
    """The configuration, with everything stated that the file states.

    Args:
        facts: The file's metadata.
        tensors: Shape of each tensor, by name, rows first.
        factors: The tensors of `ROPE_TENSORS` that the file has.

    Raises:
        ModelError: An architecture, or a position embedding, that is not known here.
        KeyError, TypeError, ValueError: Metadata that lack a size, or do not fit each other.
    """
    from transformers import AutoConfig

    arch = facts["general.architecture"]
    if arch not in KINDS:
        raise ModelError(
            f"its architecture is {arch!r}",
            hint=f"read are {', '.join(KINDS)}; take the checkpoint folder instead",
        )
    own = {key.removeprefix(f"{arch}."): value for key, value in facts.items() if key.startswith(f"{arch}.")}
    own.setdefault("attention.head_count_kv", own["attention.head_count"])
    stated = {theirs: own[key] for key, theirs in _SIZES.items()}
    heads = stated["num_attention_heads"]
    size = own.get("attention.key_length") or own.get("rope.dimension_count") if arch != "phi3" else None
    size = size or stated["hidden_size"] // heads
    rope = _rope(own, size, factors)
    if arch == "phi3":
        original = own.get("rope.scaling.original_context_length", stated["max_position_embeddings"])
        rope["partial_rotary_factor"] = own.get("rope.dimension_count", size) / size
        stated |= {"sliding_window": own.get("attention.sliding_window") or None}
        stated |= {"original_max_position_embeddings": original}
    elif own.get("rope.dimension_count", size) != size:
        raise ModelError("it turns a part of each head only", hint="take the checkpoint folder instead")
    if arch == "gemma3":
        # The 27B is the one size whose scores are scaled otherwise.
        scaled = stated["hidden_size"] // heads if stated["num_hidden_layers"] == 62 else size
        local = {"rope_type": "default", "rope_theta": own.get("rope.freq_base_swa", 10_000.0)}
        stated |= {"query_pre_attn_scalar": scaled, "sliding_window": own["attention.sliding_window"]}
        stated |= {"final_logit_softcapping": own.get("final_logit_softcapping")}
        rope = {"full_attention": rope, "sliding_attention": local}
    return AutoConfig.for_model(
        KINDS[arch],
        **stated,
        head_dim=size,
        rope_parameters=rope,
        vocab_size=tensors["token_embd.weight"][0],
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        **{f"{role}_token_id": facts.get(f"tokenizer.ggml.{key}_token_id") for role, key in ROLES.items()},
    )


def _rope(own: Mapping[str, Any], size: int, factors: Factors) -> dict[str, Any]:
    """How positions turn queries and keys: `rope_parameters` of transformers."""
    kind, theta = own.get("rope.scaling.type", "none"), own.get("rope.freq_base", 10_000.0)
    rope = {"rope_type": "default", "rope_theta": theta}
    original = own.get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in factors:
        return rope | _llama3(factors["rope_freqs.weight"], theta, size)
    if "rope_factors_long.weight" in factors:
        longs, shorts = (factors[f"rope_factors_{name}.weight"].tolist() for name in ("long", "short"))
        return rope | {
            "rope_type": "longrope",
            "long_factor": longs,
            "short_factor": shorts,
            "original_max_position_embeddings": original,
        }
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": own["rope.scaling.factor"]}
    if kind == "yarn":
        return rope | {
            "rope_type": "yarn",
            "factor": own["rope.scaling.factor"],
            "original_max_position_embeddings": original,
        }
    if kind != "none":
        raise ModelError(f"its positions are of kind {kind!r}", hint="take the checkpoint folder instead")
    return rope


def _llama3(given: npt.NDArray[np.float32], theta: float, size: int) -> dict[str, Any]:
    """The parameters behind the factors of wavelengths that Llama 3.1 and later have.

    Raises:
        ModelError: Factors that they do not make.
    """
    factor, original, low, high = float(given.max()), 8192, 1.0, 4.0
    turns = original / (2 * np.pi * theta ** (np.arange(0, size, 2) / size))
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    made = 1 / ((1 - smooth) / factor + smooth)
    if given.shape != made.shape or not np.allclose(given, made, rtol=1e-3):
        raise ModelError(
            "the wavelengths of its positions are not as Llama 3.1 has them",
            hint="take the checkpoint folder instead",
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
