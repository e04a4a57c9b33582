"""Models that the compact engines know: their sizes, and rotary positions (Su et al., arXiv 2104.09864).

Rotary factors are computed in float32 in the order of transformers' own code, so that the bits are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from flexspec_mq.models.checkpoint import Config

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types of transformers that have Llama's layers, some with biases."""
_HEAD_NORMS = ("qwen3",)
"""Model types that norm each head of queries and keys besides."""
_ROTARY = ("default", "linear", "llama3")
"""Ways of stretching contexts, by transformers' names."""
OTHERWISE = "as a target, --engine transformers runs whatever transformers knows, at its own cost"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model with Llama's layers: RMS norm, rotary positions, grouped attention, SwiGLU.

    Attributes:
        layers: how many.
        width: width of the hidden state.
        inner: width between the matrices of the MLP.
        queries: heads of queries.
        keys: KV heads; divides `queries`.
        head: width of one head, even.
        epsilon: epsilon of the norms.
        vocab_size: rows of the embedding.
        tied: the LM head is the embedding.
        speeds: radians per position of each pair of numbers of a head.
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
    speeds: tuple[float, ...]
    head_norms: bool = False

    @classmethod
    def from_config(cls, config: Config) -> Shape:
        """Read the sizes from a configuration.

        Args:
            config: configuration of the model.

        Raises:
            UnknownModel: the model is built in another way.
        """
        _check(config)
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or config["hidden_size"] // heads)
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
            speeds=_speeds(config["rope_parameters"], head),
            head_norms=config["model_type"] in _HEAD_NORMS,
        )

    @property
    def weights(self) -> int:
        """Number of its weights, without norms and biases."""
        heads = 2 * (self.queries + self.keys) * self.head
        layer = self.width * (heads + 3 * self.inner)
        return self.layers * layer + (1 if self.tied else 2) * self.vocab_size * self.width


class UnknownModel(ModelError):
    """Nothing is wrong with the model, but this runner does not know it."""


def refused(what: str) -> UnknownModel:
    """The error for a model that this runner does not know."""
    return UnknownModel(f"the compact engine does not know {what}", hint=OTHERWISE)


def _check(config: Config) -> None:
    """Refuse what would be computed wrongly.

    Raises:
        ModelError: naming it.
    """
    if config["model_type"] not in FAMILIES:
        raise refused(f"models of type {config['model_type']!r}, only {', '.join(FAMILIES)}")
    if config["hidden_act"] != "silu":
        raise refused(f"the activation {config['hidden_act']!r}")
    kinds = set(config.get("layer_types") or ())
    windowed = config.get("use_sliding_window", True) and config.get("sliding_window")
    if kinds - {"full_attention"} or (not kinds and windowed):
        raise refused("attention with a sliding window")


def _speeds(parameters: Mapping[str, Any], head: int) -> tuple[float, ...]:
    """Radians per position of each pair of numbers of a head, from a configuration's rotary parameters.

    Raises:
        UnknownModel: they are of a kind that is not computed here.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in _ROTARY or float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        raise refused(f"rotary positions as in {dict(parameters)}")
    exponents = torch.arange(0, head, 2, dtype=torch.int64).float() / head
    speeds: torch.Tensor = 1.0 / (float(parameters["rope_theta"]) ** exponents)
    if kind == "linear":
        speeds /= float(parameters["factor"])
    if kind == "llama3":
        speeds = _llama3(speeds, parameters)
    return tuple(speeds.tolist())


def _llama3(speeds: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Llama 3.1's stretching: slow pairs turn slower by the factor, quick ones as before, a ramp in between."""
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    original = parameters["original_max_position_embeddings"]
    waves = 2 * math.pi / speeds
    slow, quick = waves > original / low, waves < original / high
    stretched = torch.where(slow, speeds / factor, speeds)
    share = (original / waves - low) / (high - low)
    ramp = (1 - share) * stretched / factor + share * stretched
    return torch.where(~quick & ~slow, ramp, stretched)


class Turns:
    """Factors for rows of [queries, keys, values] heads, grown as contexts grow.

    A row x = (a, b) of a query or key becomes (a·cos - b·sin, b·cos + a·sin), which is x·c + swap(x)·s. Values
    have c = 1 and s = 0, so that the three need no cutting, and a scale of the queries is in their factors.
    """

    def __init__(self, shape: Shape, like: torch.Tensor, *, scale: float | None = None) -> None:
        """Hold nothing yet.

        Args:
            shape: shape of the model.
            like: a tensor on the device and in the dtype of the model.
            scale: scale of the queries; by default that of the scores.
        """
        half = len(shape.speeds)
        self._scale = 1.0 / math.sqrt(2 * half) if scale is None else scale
        self._speeds = shape.speeds
        self._like = like
        self._straight = like.new_empty((0, 3, 1, half)), like.new_empty((0, 3, 2, half))
        counts = torch.tensor([shape.queries, shape.keys, shape.keys])
        self._spread = torch.repeat_interleave(torch.arange(3), counts).to(like.device)

    def at(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors c and s: [rows, heads, 1, half a head] and [rows, heads, 2, half a head]."""
        most = max(positions) + 1
        if most > len(self._straight[0]):
            self._grow(-(-most // 1024) * 1024)
        cosines, sines = self._straight
        first, count = positions[0], len(positions)
        if count == 1:
            rows = cosines[first : first + count], sines[first : first + count]
        else:
            index = torch.tensor(positions, device=self._like.device)
            rows = cosines[index], sines[index]
        return rows[0].index_select(1, self._spread), rows[1].index_select(1, self._spread)

    def _grow(self, end: int) -> None:
        angles = torch.arange(end)[:, None].float() * torch.tensor(self._speeds)
        cosines, sines = angles.cos(), angles.sin()
        scale = self._scale
        signed = torch.stack((-sines, sines), dim=1)
        c = torch.stack((cosines * scale, cosines, torch.ones_like(cosines)), dim=1)
        s = torch.stack((signed * scale, signed, torch.zeros_like(signed)), dim=1)
        self._straight = c[:, :, None].to(self._like), s.to(self._like)
