"""Questions in the form of Spec-Bench: JSON lines with `question_id`, `category` and `turns`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    from flexspec_mq.models.text import read_prompts

    prompts = read_prompts(path)
    lines = (line for line in path.read_text("utf-8-sig").split("\n") if line.strip())
    return [
        Question(name, str(json.loads(line).get("category", "all")), text)
        for (name, text), line in zip(prompts, lines, strict=True)
    ]


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


_TOOLS = Path(__file__).with_name("calls.jsonl")


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool.

    Attributes:
        parameters: JSON schema of its arguments.
        asks: words of users who want it called.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    asks: tuple[str, ...]

    @property
    def function(self) -> dict[str, Any]:
        """As OpenAI's API takes it."""
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}


def read_tools() -> list[CallableTool]:
    """The twenty tools that come with the package."""
    return [
        CallableTool(**{**json.loads(line), "asks": tuple(json.loads(line)["asks"])})
        for line in _TOOLS.read_text("utf-8").splitlines()
    ]
