"""Texts written in step: one batch whose contexts all end at the same column, so that one product serves them all.

A worker's packed attention keeps a text's bits free of what shares the forward, with two products for each text and
layer. Training text has no need of that, only of much text: here keys and values of all texts lie in one tensor,
prompts are read one by one so that they end at the same column, and every step adds a column. What is written
differs from a worker's text where two tokens are as good as equal, by the rounding of the model's dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

IMPLEMENTATION = "flexspec_lockstep"


class Lockstep:
    """Keys and values of some texts, and the model that reads them.

    The model must have been loaded with the attention implementation that `register` names.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int) -> None:
        """Reserve memory; nothing is read yet.

        Args:
            model: from transformers, in evaluation mode.
            prompts: token ids that the texts begin with, at least one of each.
            room: tokens that each text will take on behind its prompt, at most.

        Raises:
            ModelError: the model's attention is another.
        """
        config = model.config.get_text_config()
        if config._attn_implementation != IMPLEMENTATION:  # noqa: SLF001  transformers has no public name for it
            raise ModelError(f"the model was loaded with attention {config._attn_implementation!r}")  # noqa: SLF001
        if not hasattr(config, "num_attention_heads"):
            raise ModelError(
                f"{type(model).__name__} has no attention heads", hint="only attention models can write texts"
            )
        heads = int(config.num_attention_heads)
        self._keys = int(getattr(config, "num_key_value_heads", None) or heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self._model, self._prompts = model, prompts
        self._prompts_end = self._column = max(map(len, prompts))
        self._device = model.device
        shape = (len(prompts), self._keys, self._column + room, size)
        self._memory = [
            torch.zeros((2, *shape), dtype=model.dtype, device=model.device)
            for _ in range(int(config.num_hidden_layers))
        ]
        self._first = torch.tensor([self._column - len(prompt) for prompt in prompts], device=model.device)
        before = torch.arange(shape[2], device=model.device) < self._first[:, None]
        self._mask = torch.zeros(before.shape, dtype=model.dtype, device=model.device)
        self._mask = self._mask.masked_fill_(before, float("-inf"))[:, None, None]
        self._reading: int | None = None

    @torch.inference_mode()
    def read(self, text: int) -> torch.Tensor:
        """Read the prompt of one text.

        Args:
            text: which; all prompts come before the first `step`.

        Returns:
            float32 logits of its first token, shape [vocabulary].
        """
        prompt = torch.tensor([list(self._prompts[text])], device=self._device)
        self._reading = text
        try:
            return self._forward(prompt, torch.arange(prompt.shape[1], device=self._device)[None])[0]
        finally:
            self._reading = None

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token of every text.

        Args:
            tokens: of the texts that are left, in order.

        Returns:
            float32 logits of what comes after, shape [texts, vocabulary].
        """
        ids = torch.tensor(tokens, device=self._device)[:, None]
        logits = self._forward(ids, (self._column - self._first)[:, None])
        self._column += 1
        return logits

    def keep(self, texts: Sequence[int]) -> None:
        """Go on with some of the texts only, in the given order."""
        chosen = torch.tensor(texts, device=self._device)
        for layer, both in enumerate(self._memory):  # one by one: two copies of all would be much memory
            self._memory[layer] = both.index_select(1, chosen)
        self._first, self._mask = self._first[chosen], self._mask[chosen]

    def attend(
        self,
        layer: int,
        projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Store a layer's new keys and values, and attend.

        Args:
            layer: which.
            projected: queries [texts, heads, tokens, head size]; keys and values [texts, kv heads, tokens,
                head size].
            scale: of the scores.
            window: positions that a query sees, itself included; None is all.

        Returns:
            [texts, tokens, heads, head size].
        """
        query, key, value = projected
        if self._reading is not None:
            place = slice(self._prompts_end - key.shape[2], self._prompts_end)
            self._memory[layer][:, self._reading, :, place] = torch.cat((key, value))
            return _attend_prompt(query, key, value, scale, window)
        memory = self._memory[layer]
        memory[:, :, :, self._column] = torch.stack((key[:, :, 0], value[:, :, 0]))
        end = self._column + 1
        seen = slice(0 if window is None else max(0, end - window), end)
        texts, heads, _, size = query.shape
        # The queries that share a head of keys stand where a sequence's queries would: no key is read twice.
        grouped = query.reshape(texts, self._keys, heads // self._keys, size)
        keys, values = memory[:, :, :, seen].unbind(0)
        mixed = scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self._mask[..., seen], scale=scale
        )
        return mixed.reshape(texts, 1, heads, size)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1, flexspec=self
        )
        return cast("torch.Tensor", output.logits[:, -1].float())


def _attend_prompt(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    count = query.shape[2]
    mask = None
    if window is not None and count > window:
        mask = torch.ones((count, count), dtype=torch.bool, device=query.device).tril().triu(1 - window)
    mixed = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return mixed.transpose(1, 2)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    flexspec: Lockstep,
    sliding_window: int | None = None,
    **_kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form that transformers calls; see `Lockstep.attend`."""
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    return flexspec.attend(layer, (query, key, value), scale, sliding_window), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """`Lockstep` masks by itself, so the model builds none."""
    return


def register() -> str:
    """Make the implementation known to transformers and return its name."""
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
    return IMPLEMENTATION
