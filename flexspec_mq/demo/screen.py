"""What the demo shows: the text as it comes, coloured by who wrote it, a live line, and the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flexspec_mq.stages import bars

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from flexspec_mq.stages import Tell

ACCEPTED = "green"
WRITTEN = "bold yellow"

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
        self._console.print(Text(text), soft_wrap=True)

    def bars(self, *tasks: str) -> AbstractContextManager[Tell]:
        """A bar for each task, for as long as the block lasts."""
        return bars(*tasks, console=self._console)

    def legend(self) -> None:
        """Which colour means what."""
        self._console.print(
            Text.assemble(
                ("drafted on the device, accepted", ACCEPTED), "   ", ("written by the target", WRITTEN)
            )
        )

    def question(self, prompt: str) -> None:
        """What was asked."""
        self._console.print(Text.assemble(("\n› ", "bold"), prompt))

    def ask(self) -> str | None:
        """The next line of the user; None at the end of input."""
        try:
            return self._console.input("\n[bold]›[/bold] ")
        except EOFError:
            return None

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


class Answer:
    """One answer as it comes. Finished lines scroll away; the line being written and the figures stay live."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = Text()
        self._stats: dict[str, Any] | None = None
        self._live = Live(console=console, refresh_per_second=12, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._line)
        else:
            self._console.file.write("\n")

    def text(self, pieces: Iterable[tuple[str, bool]]) -> None:
        """More text, in pieces that the draft got right (true) or the target wrote (false)."""
        for piece, accepted in pieces:
            if not self._console.is_terminal:
                self._console.file.write(piece)
                self._console.file.flush()
                continue
            *lines, rest = piece.split("\n")
            for line in lines:
                self._line.append(line, ACCEPTED if accepted else WRITTEN)
                self._live.console.print(self._line)
                self._line = Text()
            self._line.append(rest, ACCEPTED if accepted else WRITTEN)
        self._refresh()

    def stats(self, stats: dict[str, Any]) -> None:
        """Newer figures."""
        self._stats = stats
        self._refresh()

    def _refresh(self) -> None:
        if not self._console.is_terminal:
            return
        parts = [self._line]
        if self._stats is not None:
            parts.append(Text(live_line(self._stats), style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*parts), refresh=True)


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
        ("acceptance", f"{_share(stats)} of the {stats['drafted']} draft tokens that were judged"),
        ("tokens per round", f"{stats['tokens_per_round']:.2f} ({forwards:.2f} target forwards a token)"),
        ("round trip", f"{_ms(stats['rtt_ms'])} without the worker's own time"),
        ("MQTT payload", f"{stats['bytes_up']} B up, {stats['bytes_down']} B down"),
        ("recoveries", f"{stats['polls']} polls, {stats['reopens']} re-opens"),
    ]


def _share(stats: dict[str, Any]) -> str:
    return f"{stats['accepted'] / stats['drafted']:.0%}" if stats["drafted"] else "–"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
