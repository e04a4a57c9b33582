"""Prompts for the target to answer: read from files, or invented by the target, through its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.text import Turn, encode_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.tokenizer import Tokenizer

_MARK = "Where a user's words go."


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], longest: int) -> list[tuple[int, ...]]:
    """Token ids that the target continues, of prompts that are not blank and have ``longest`` tokens at most.

    Repeated prompts are left out, so that a text is told from others by its prompt and temperature.
    """
    found: dict[tuple[int, ...], None] = {}
    for prompt in prompts:
        try:
            found[encode_turns(tokenizer, [Turn("user", prompt)], max_context=longest + 1)] = None
        except UsageError:  # blank or too long
            continue
    return list(found)


def invitation(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the chat template up to where a user's words begin: what the target continues as a user would.

    Raises:
        ModelError: There is no chat template, or it puts nothing before a user's words.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the model has no chat template, so it cannot invent prompts", hint="give prompts of your own"
        )
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], add_generation_prompt=True, tokenize=False
    )
    before = str(rendered).split(_MARK, maxsplit=1)[0]
    ids = tokenizer.encode(before, add_special_tokens=False)
    if not ids or before == rendered:
        raise ModelError(
            "the chat template has nothing before a user's words to continue", hint="give prompts of your own"
        )
    return tuple(ids)
