"""Prompts for the target to answer: read from files, or invented by the target, through its chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.text import Turn, encode_turns, text_from_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flexspec_mq.models.tokenizer import Tokenizer

_MARK = "Where a user's words go."


def read_prompts(path: Path, *, may_be_blank: bool = False) -> list[tuple[str, str]]:
    """(name, prompt) pairs of a JSON-lines file with ``prompt``, or ``turns`` of which the first is used.

    A line is named by its ``question_id``, or else its number.

    Raises:
        UsageError: Names the file, and the line that cannot be used.
    """
    try:
        text = text_from_bytes(path.read_bytes(), source=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    prompts = []
    # Not `splitlines`: a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
            prompt = record["prompt"] if "prompt" in record else record["turns"][0]
            name = str(record.get("question_id", number))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} line {number} is no JSON object with `prompt` or `turns`",
                hint='for example {"prompt": "Why is the sky blue?"}',
            ) from error
        if not isinstance(prompt, str) or not (may_be_blank or prompt.strip()):
            raise UsageError(f"{path} line {number} has an empty prompt")
        prompts.append((name, prompt))
    return prompts


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
