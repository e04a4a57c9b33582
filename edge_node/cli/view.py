"""Texts of a running node as one user wants them, and how they are shown: plainly, or as JSON lines."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_node.completion.events import events
from flexspec_mq.controller.explain import LimitReport
from flexspec_mq.controller.limits.states import in_words as limit_in_words
from flexspec_mq.daemon.logs import tell
from flexspec_mq.energy.model import in_words
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.terminal.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from edge_node.completion.generator import CompletionGenerator
    from edge_node.completion.options import CompletionOptions
    from flexspec_mq.errors import FlexSpecError
    from flexspec_mq.models.text import Turn


@dataclass(frozen=True, slots=True)
class SessionView:
    """What a command works with.

    Attributes:
        events: print JSON lines instead of text.
    """

    generator: CompletionGenerator
    options: CompletionOptions
    events: bool

    def write(self, turns: Sequence[Turn]) -> AsyncGenerator[dict[str, Any]]:
        """Write the next turn of a conversation."""
        return events(self.generator, tuple(turns), self.options, self.emit)

    def emit(self, event: dict[str, Any], **more: Any) -> None:
        """Show an event of a text."""
        if self.events:
            self._line({**event, **more})
        elif event["type"] == "text":
            text = "".join(piece for piece, _ in event["pieces"])
            self._print(printable(text) if sys.stdout.isatty() else text)
        elif event["type"] == "finish":
            self._print("\n")
            if event["reason"] == FinishReason.LENGTH and not self.options.ignore_eos:
                tell(f"cut at the limit of {len(event['tokens'])} tokens; --max-tokens N sets another")
            if (stats := event["stats"])["energy_j"] is not None:
                tell(in_words(stats["energy_j"], stats["energy_j_per_100"], stats["energy_source"]))
            for one in stats["limits"]:
                if one["state"] not in {"kept", "unknown"}:
                    tell(limit_in_words(LimitReport(**one)))

    def record(self, name: str, event: dict[str, Any]) -> None:
        """Show the end of one text of many: always one JSON line."""
        self._line({**event, "name": name})

    def waiting(self) -> None:
        """Say that the next line of the chat is waited for."""
        if self.events:
            self._line({"type": "waiting"})
        elif sys.stdin.isatty():
            self._print("> ")

    def help(self, text: str) -> None:
        """Show what a person may type."""
        self._print(text)

    def refused(self, error: FlexSpecError) -> None:
        """Say that a turn cannot be taken."""
        if self.events:
            self._line({"type": "refused", "error": error.message, "hint": error.hint})
        else:
            self._print(f"{error}\n")

    def _line(self, event: dict[str, Any]) -> None:
        self._print(json.dumps(event, ensure_ascii=False) + "\n")

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
