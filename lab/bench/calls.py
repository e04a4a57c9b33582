"""Tools that agents call, each with its JSON schema and things to ask for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
