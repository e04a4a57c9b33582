"""Decoders that graphs can be written of: their facts, as transformers reads them from a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.checkpoint import first_line, quiet_transformers
from flexspec_mq.models.head import LM_HEAD, LoraHead
from flexspec_mq.models.onnx.folder import Attention, Rotary
from flexspec_mq.models.shape import UnknownModel
from flexspec_mq.models.weights import Tensors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "phi3")
"""Model types of transformers whose layers `graphs.Backbone` has."""
_ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
_WITHIN = (("model.", ""), ("language_model.model.", "language_model."), ("model.language_model.", ""))
"""Beginnings of the names of layers and LM head in checkpoints, those of several parts included."""
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "rotary_emb.")
_FEWEST = 8
"""ONNX Runtime turns pairs of a head in groups of so many."""


class Decoder:
    """Sizes and weights of a decoder: RMS norms, grouped attention, a gated MLP.

    Attributes:
        width: width of the hidden state.
        queries: heads of queries.
        keys: KV heads.
        head: width of one head.
        epsilon: epsilon of the norms.
        vocab_size: rows of the embedding.
        scale: scale of the scores.
        softcap: bound of the scores; 0 is none.
        logits_softcap: bound of the logits; 0 is none.
        activation: activation of the MLP, one of `_ACTIVATIONS`.
        embedding_scale: factor of the embeddings.
        layers: attention of each layer.
        rotary: kinds of rotary positions.
        wide: width of the MLP.
        tied: whether the LM head is the embedding.
        given: None: its weights are rounded here.

    Args:
        folder: an ordinary checkpoint, config.json and safetensors.
        config: configuration of the model.
        lora: additions that are merged into its weights.

    Raises:
        UnknownModel: naming what graphs cannot be written of.
        ModelError: damaged weights.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], lora: LoraHead | None = None) -> None:
        kind = str(config["model_type"])
        if kind not in FAMILIES:
            raise _unknown(f"models of type {kind!r}, only {', '.join(FAMILIES)}")
        self.activation = str(config.get("hidden_activation") or config["hidden_act"])
        if self.activation not in _ACTIVATIONS:
            raise _unknown(f"the activation {self.activation!r}")
        if config.get("quantization_config"):
            raise _unknown("weights that are in few bits already")
        self._model, self.rotary, kinds = _skeleton(folder)
        self.queries = int(config["num_attention_heads"])
        self.keys = int(config.get("num_key_value_heads") or self.queries)
        self.width, self.vocab_size = int(config["hidden_size"]), int(config["vocab_size"])
        self.head = int(config.get("head_dim") or self.width // self.queries)
        self.epsilon = float(config["rms_norm_eps"])
        self.scale = float(config.get("query_pre_attn_scalar") or self.head) ** -0.5
        self.softcap = float(config.get("attn_logit_softcapping") or 0)
        self.logits_softcap = float(config.get("final_logit_softcapping") or 0)
        self._gemma, self.tied = kind.startswith("gemma"), bool(config["tie_word_embeddings"])
        self.wide, self.given = int(config["intermediate_size"]), None
        self.embedding_scale = self.width**0.5 if self._gemma else 1.0
        self.layers = tuple(_attention(config, kinds, index) for index in range(config["num_hidden_layers"]))
        for rotary in self.rotary:
            if len(rotary.speeds) % _FEWEST or 2 * len(rotary.speeds) > self.head:
                raise _unknown(
                    f"heads of {self.head} numbers of which {2 * len(rotary.speeds)} turn: not in sixteens"
                )
        self._tensors, self._lora = Tensors(folder), lora
        self._layers, self._outside = next(
            (names for names in _WITHIN if f"{names[0]}norm.weight" in self._tensors), _WITHIN[0]
        )
        self._check()

    def has(self, name: str) -> bool:
        """Whether there is a tensor, named as in transformers' model."""
        return self._stored(name) in self._tensors

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            ModelError: it is missing, of another shape, or unreadable.
        """
        weight = self._tensors.read(self._stored(name), tuple(self._model[name].shape))
        return weight if self._lora is None else self._lora.merged(name, weight)

    def floats(self, *names: str) -> Floats:
        """Read tensors, joined along their first dimension."""
        import torch

        array: Floats = torch.cat([self.tensor(name).float() for name in names]).numpy()
        return array

    def norm(self, name: str) -> Floats:
        """Read the weights of a norm."""
        weight = self.floats(name)
        return weight + 1 if self._gemma else weight

    def matrix(self, layer: str, names: Sequence[str], joined: str = "") -> tuple[Floats, Floats | None]:
        """Read weights and bias of a layer's modules, joined, or of the one that has them joined."""
        if joined and self.has(f"{layer}{joined}.weight"):
            names = (joined,)
        weight = self.floats(*(f"{layer}{name}.weight" for name in names))
        biases = [f"{layer}{name}.bias" for name in names]
        return weight, self.floats(*biases) if self.has(biases[0]) else None

    def head_rows(self, ids: npt.NDArray[np.int64] | None) -> Floats:
        """Rows of the LM head, all or those of some ids."""
        head = self.tensor("model.embed_tokens.weight" if self.tied else LM_HEAD)
        if self.tied and self._lora is not None:
            head = self._lora.merged(LM_HEAD, head)
        array: Floats = (head if ids is None else head[ids]).float().numpy()
        return array

    def _stored(self, name: str) -> str:
        if name.startswith("model."):
            return self._layers + name.removeprefix("model.")
        return self._outside + name

    def _check(self) -> None:
        """Refuse a checkpoint with parts that would be left out.

        Raises:
            UnknownModel: naming one.
        """
        ours = {self._stored(name) for name in self._model}
        strange = [
            name
            for name in self._tensors.names
            if name not in ours and not any(part in name for part in _OTHER_PARTS)
        ]
        if strange:
            raise _unknown(f"the tensor {strange[0]}, one of {len(strange)} that they would leave out")


def _unknown(what: str) -> UnknownModel:
    return UnknownModel(
        f"graphs for ONNX Runtime cannot be written of {what}",
        hint="take another small model of the target's family as the draft, or --draft none, which drafts by lookups",
    )


def _skeleton(folder: Path) -> tuple[Mapping[str, torch.Tensor], tuple[Rotary, ...], Sequence[str]]:
    """Tensors of transformers' own model, without contents; its rotary positions; and the kind of layers that has each.

    The empty kind is all layers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet_transformers():
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
            found = type(model.model.rotary_emb)(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"transformers makes no model of {folder}: {first_line(error)}", hint="is its config.json whole?"
        ) from error
    kinds = sorted(getattr(found, "layer_types", None) or [""])
    rotary = [
        Rotary(
            tuple(getattr(found, f"{kind}_inv_freq" if kind else "inv_freq").tolist()),
            float(getattr(found, f"{kind}_attention_scaling" if kind else "attention_scaling")),
        )
        for kind in kinds
    ]
    return model.state_dict(), tuple(rotary), kinds


def _attention(config: Mapping[str, Any], kinds: Sequence[str], index: int) -> Attention:
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    usual = "sliding_attention" if window else "full_attention"
    stated = config.get("layer_types")
    kind = stated[index] if stated else usual
    if kind not in ("full_attention", "sliding_attention"):
        raise _unknown(f"layers of type {kind!r}")
    turns = config.get("no_rope_layers")
    rotary = kinds.index(kind) if kind in kinds else 0
    return Attention(
        rotary if not turns or turns[index] else None,
        int(window or 0) if kind == "sliding_attention" else 0,
    )
