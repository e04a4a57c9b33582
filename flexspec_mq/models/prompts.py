"""A file of prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import text_from_bytes

if TYPE_CHECKING:
    from pathlib import Path


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
