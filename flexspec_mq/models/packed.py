"""One forward for many sessions of different lengths, through the model's own transformers code."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.attention import IMPLEMENTATION, Heads, Packed, Segment, Shapes
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


class PackedModel:
    """A causal language model that reads several sessions in one forward.

    The model must have been loaded with the attention implementation that `attention.register` names.
    """

    def __init__(self, model: PreTrainedModel, shapes: Shapes | None = None) -> None:
        """Wrap a loaded model.

        Args:
            model: from transformers, in evaluation mode.
            shapes: padding that keeps kernels the same; by default what the model's products need on this machine.

        Raises:
            ModelError: the model's attention cannot be packed.
        """
        config = model.config.get_text_config()
        if config._attn_implementation != IMPLEMENTATION:  # noqa: SLF001  transformers has no public name for it
            raise ModelError(f"the model was loaded with attention {config._attn_implementation!r}")  # noqa: SLF001
        if not hasattr(config, "num_attention_heads"):
            raise ModelError(
                f"{type(model).__name__} has no attention heads", hint="only attention models can be packed"
            )
        self.model = model
        self.vocab_size = int(config.vocab_size)
        self._layers = int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        self.heads = Heads(
            heads,
            int(getattr(config, "num_key_value_heads", None) or heads),
            int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        )
        self._like = torch.empty(0, dtype=model.dtype, device=model.device)
        self.shapes = shapes or Shapes.for_model(model, self._like, self.heads.size)

    def new_kv(self) -> SessionKV:
        """Empty keys and values for a new session."""
        return SessionKV(self._layers, self.heads.keys, self.heads.size, self._like)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        """Read the tokens of all inputs.

        Args:
            inputs: at most one per session.

        Returns:
            float32 logits of shape [sum of rows, vocabulary], input by input, on the model's device.
        """
        device = self._like.device
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        segments: list[Segment] = []
        for model_input in inputs:
            base, count = model_input.kv.length, len(model_input.tokens)
            model_input.kv.reserve(base + count)
            segments.append(Segment(model_input.kv, len(ids), count, base))
            ids += model_input.tokens
            positions += range(base, base + count)
            wanted += range(len(ids) - model_input.rows, len(ids))
        padding = max(0, self.shapes.min_rows - len(ids))
        wanted_padded = wanted + wanted[:1] * max(0, self.shapes.min_rows - len(wanted)) if wanted else [0]
        output = self.model(
            input_ids=torch.tensor([ids + [0] * padding], device=device),
            position_ids=torch.tensor([positions + [0] * padding], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted_padded, device=device),
            flexspec=Packed(segments, len(ids) + padding, self.heads, self.shapes, self._like),
        )
        for model_input in inputs:
            model_input.kv.tokens += model_input.tokens
        return cast("torch.Tensor", output.logits[0, : len(wanted)].float())
