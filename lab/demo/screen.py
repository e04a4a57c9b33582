"""What the demo shows: stages, questions, the answer as it comes with a line of figures, and the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexspec_mq.daemon.progress import bars
from flexspec_mq.terminal.answer import Answer, legend
from flexspec_mq.terminal.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from flexspec_mq.daemon.progress import Tell

_REASONS = {
    "eos": "the target ended the text",
    "length": "the limit of tokens was reached",
    "stop": "a stop string came",
    "cancelled": "cancelled",
    "failed": "it failed",
    "deadline": "the time was over",
}


class Screen:
    """A terminal, or whatever standard output is."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it as it changes."""
        return self._console.is_terminal

    def say(self, text: str) -> None:
        """One line, however long."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def bars(self, *tasks: str) -> AbstractContextManager[Tell]:
        """A bar for each task, for as long as the block lasts."""
        return bars(*tasks, console=self._console)

    def legend(self) -> None:
        """Which colour means what."""
        self._console.print(legend())

    def question(self, prompt: str) -> None:
        """What was asked."""
        self._console.print(Text.assemble(("\n› ", "bold"), printable(prompt)))

    def answer(self) -> Answer:
        """Where the next answer is shown."""
        return Answer(self._console)

    def summary(self, finish: dict[str, Any]) -> None:
        """Figures of a finished text."""
        stats = finish["stats"]
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in summary_rows(stats, finish["reason"]):
            table.add_row(Text(name, style="dim"), value)
        self._console.print(table)

    def comparison(
        self, pairs: Mapping[str, tuple[dict[str, Any], dict[str, Any]]], *, on_link: bool
    ) -> None:
        """Compare texts with the same texts as plain streams; statistics of both by the prompt's kind."""
        if len(pairs) > 1:
            table = Table(box=None, padding=(0, 2, 0, 0))
            for head in ("", "tokens", "a round", "drafted", "streamed", "took"):
                table.add_column(Text(head, style="dim"), justify="right" if head else "left")
            for kind, (drafted, streamed) in pairs.items():
                table.add_row(kind, *comparison_row(drafted, streamed))
            self._console.print(table)
        for line in comparison([*pairs.values()], on_link=on_link):
            self.say(line)


def live_line(stats: dict[str, Any]) -> str:
    """The figures of one moment in one line."""
    return " · ".join(
        (
            f"draft length {stats['draft_length']}",
            f"acceptance {_share(stats)}",
            f"{stats['tokens_per_round']:.2f} tokens/round",
            f"round trip {_ms(stats['rtt_ms'])}",
            f"{stats['bytes_per_token']:.0f} B/token",
            f"{stats['tokens_per_second']:.1f} tokens/s",
        )
    )


def summary_rows(stats: dict[str, Any], reason: str) -> list[tuple[str, str]]:
    """The figures of a whole text, as (name, value)."""
    first = stats["first_token"]
    forwards = stats["rounds"] / stats["tokens"] if stats["tokens"] else 0.0
    return [
        ("ended because", _REASONS[reason]),
        (
            "tokens",
            f"{stats['tokens']} in {stats['seconds']:.1f} s, {stats['tokens_per_second']:.1f} a second",
        ),
        ("first token after", "–" if first is None else f"{first:.2f} s"),
        ("acceptance", f"{_share(stats)} of the device's {stats['drafted']} draft tokens that were judged"),
        ("worker's drafts", f"{stats['worker_accepted']} tokens that it had drafted itself were right"),
        ("tokens per round", f"{stats['tokens_per_round']:.2f} ({forwards:.2f} target forwards a token)"),
        ("round trip", f"{_ms(stats['rtt_ms'])} without the worker's own time"),
        ("MQTT payload", f"{stats['bytes_up']} B up, {stats['bytes_down']} B down"),
        ("recoveries", f"{stats['polls']} polls, {stats['reopens']} re-opens"),
    ]


def comparison_row(drafted: dict[str, Any], streamed: dict[str, Any]) -> tuple[str, ...]:
    """Tokens, tokens a round, seconds with drafts and without, and their ratio."""
    ours, theirs = drafted["seconds"], streamed["seconds"]
    return (
        str(drafted["tokens"]),
        f"{drafted['tokens_per_round']:.2f}",
        f"{ours:.1f} s",
        f"{theirs:.1f} s",
        f"{ours / theirs:.2f} times as long",
    )


def comparison(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], *, on_link: bool) -> list[str]:
    """How long the same texts took with drafts and without, in words; one try of each."""
    ours, theirs = (sum(stats[side]["seconds"] for stats in pairs) for side in (0, 1))
    took = f"{ours / theirs:.2f} times as long (one try each)"
    what = "the same text" if len(pairs) == 1 else "the same texts"
    lines = [f"with drafts {ours:.1f} s, {what} streamed without drafts {theirs:.1f} s: {took}"]
    if not on_link and any(drafted["seconds"] > streamed["seconds"] for drafted, streamed in pairs):
        lines += [
            "Both sides share a processor here and no network lies between them; where the target often writes what",
            "no draft guesses, drafts cost more than they save. docs/performance.md says where they win.",
        ]
    return lines


def _share(stats: dict[str, Any]) -> str:
    return f"{stats['accepted'] / stats['drafted']:.0%}" if stats["drafted"] else "–"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
