"""Canaries as a worker computes them: a base that holds heads, and what a version writes greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def load_base(base: Path, *, dtype: str, device: str = "cpu") -> PackedModel:
    """A base that can hold heads.

    Raises:
        ModelError: it cannot be loaded.
    """
    loaded = load_target(base, dtype=dtype, device=device, attn_implementation=register())
    return PackedModel(loaded.model)


def greedy(
    model: PackedModel, prompt: Sequence[int], tokens: int, ends: Sequence[int], head: str = ""
) -> tuple[int, ...]:
    """Write greedily, up to a token that ends a text.

    Args:
        model: a base, with the heads that it holds.
        prompt: token ids.
        tokens: most tokens of the text.
        ends: ids that end a text.
        head: name of the head that writes; empty is the base.
    """
    kv, unread, text = model.new_kv(), list(prompt), list[int]()
    while len(text) < tokens and not (text and text[-1] in ends):
        logits = model.forward([ModelInput(kv, unread, 1, head)])
        unread = [int(logits[-1].argmax())]
        text += unread
    return tuple(text)
