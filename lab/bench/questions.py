"""Questions in the form of Spec-Bench: JSON lines with `question_id`, `category` and `turns`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flexspec_mq.errors import UsageError

OWN = Path(__file__).with_name("prompts.jsonl")
"""Questions that come with the package."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """The first turn of a question."""

    name: str
    category: str
    text: str


def read_questions(path: Path) -> list[Question]:
    """Read the first turn of every question.

    Raises:
        UsageError: the file cannot be read or holds none, or a line is no question; says which.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"questions cannot be read: {error}") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
            name, category = str(record.get("question_id", number)), str(record.get("category", "all"))
            text = record["turns"][0] if "turns" in record else record["prompt"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(
                f"{path} line {number} is no JSON object with `turns` or `prompt`",
                hint='for example {"category": "qa", "turns": ["Why is the sky blue?"]}',
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{path} line {number} asks nothing")
        questions.append(Question(name, category, text))
    if not questions:
        raise UsageError(f"{path} holds no question")
    return questions


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]
