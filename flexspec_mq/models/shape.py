"""Which models the compact runner knows, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.errors import ModelError
from flexspec_mq.models.rotary import Rotary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.checkpoint import Config

FAMILIES = ("llama", "mistral", "qwen2")
"""Model types of transformers that have Llama's layers, some with biases."""
HEAD_NORMS = ("qwen3",)
"""Model types that norm each head of queries and keys besides."""
OTHERWISE = (
    "--draft-engine transformers, of a worker --engine transformers, runs whatever transformers knows, "
    "at its own cost"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model with Llama's layers: RMS norm, rotary positions, grouped attention, SwiGLU.

    Attributes:
        layers: how many.
        width: width of the hidden state.
        inner: width between the matrices of the MLP.
        queries: heads of queries.
        keys: heads of keys and values; divides `queries`.
        head: width of one head, even.
        epsilon: epsilon of the norms.
        vocab_size: rows of the embedding.
        tied: the LM head is the embedding.
        rotary: how positions turn queries and keys.
        head_norms: each head of queries and keys has a norm.
    """

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    head: int
    epsilon: float
    vocab_size: int
    tied: bool
    rotary: Rotary
    head_norms: bool = False

    @classmethod
    def from_config(cls, config: Config, families: Sequence[str] = FAMILIES) -> Shape:
        """Read the sizes from a configuration.

        Args:
            config: configuration of the model.
            families: model types that the caller can run.

        Raises:
            UnknownModel: the model is built in another way.
        """
        _check(config, families)
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or config["hidden_size"] // heads)
        rotary = Rotary.from_parameters(config["rope_parameters"], head)
        if rotary is None:
            raise refused(f"rotary positions as in {dict(config['rope_parameters'])}")
        return cls(
            layers=int(config["num_hidden_layers"]),
            width=int(config["hidden_size"]),
            inner=int(config["intermediate_size"]),
            queries=heads,
            keys=int(config.get("num_key_value_heads") or heads),
            head=head,
            epsilon=float(config["rms_norm_eps"]),
            vocab_size=int(config["vocab_size"]),
            tied=bool(config["tie_word_embeddings"]),
            rotary=rotary,
            head_norms=config["model_type"] in HEAD_NORMS,
        )


class UnknownModel(ModelError):
    """Nothing is wrong with the model, but this runner does not know it."""


def refused(what: str) -> UnknownModel:
    """The error for a model that this runner does not know."""
    return UnknownModel(f"the compact engine does not know {what}", hint=OTHERWISE)


def _check(config: Config, families: Sequence[str]) -> None:
    """Refuse what would be computed wrongly.

    Raises:
        ModelError: naming it.
    """
    if config["model_type"] not in families:
        raise refused(f"models of type {config['model_type']!r}, only {', '.join(families)}")
    if config["hidden_act"] != "silu":
        raise refused(f"the activation {config['hidden_act']!r}")
    kinds = set(config.get("layer_types") or ())
    windowed = config.get("use_sliding_window", True) and config.get("sliding_window")
    if kinds - {"full_attention"} or (not kinds and windowed):
        raise refused("attention with a sliding window")
