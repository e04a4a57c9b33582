"""Does a head write what its manifest says it writes?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.runner import ModelInput, ModelRunner, to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.heads.manifest import Canary

_AT_ONCE = 64
"""Rows of logits: those of a long text would take 200 MB."""


class Runner(ModelRunner, Protocol):
    """Model that holds heads.

    Attributes:
        vocab_size: width of the logits.
    """

    vocab_size: int


def canary_share(model: Runner, head: str, canaries: Sequence[Canary]) -> float:
    """Share of the canaries' tokens that are the likeliest ones behind what precedes them.

    Args:
        model: model that holds the head.
        head: name of the head; empty is the base.
        canaries: canaries of its manifest; none give 1.

    Raises:
        HeadError: a canary has ids that the model does not have.
    """
    right = 0
    for canary in canaries:
        if max(*canary.prompt, *canary.text) >= model.vocab_size:
            raise HeadError(
                f"a canary has ids beyond the model's {model.vocab_size}", hint="the head is of another base"
            )
        kv = model.new_kv()
        read = [*canary.prompt, *canary.text[:-1]]
        if len(canary.prompt) > 1:
            model.forward([ModelInput(kv, read[: len(canary.prompt) - 1], 0, head)])
        for begin in range(0, len(canary.text), _AT_ONCE):
            text = canary.text[begin : begin + _AT_ONCE]
            tokens = read[kv.length : kv.length + len(text)]
            logits = to_numpy(model.forward([ModelInput(kv, tokens, len(text), head)]))
            right += int((logits.argmax(axis=1) == text).sum())
    total = sum(len(canary.text) for canary in canaries)
    return right / total if total else 1.0
