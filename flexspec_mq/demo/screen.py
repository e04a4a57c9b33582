"""Display of the demo: stages, the question, both answers side by side as they came, and four figures."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flexspec_mq.chat.answer import UNVERIFIED, legend, style
from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.progress import Tell, bars
from flexspec_mq.demo.recording import Recording

TITLES = ("streamed without drafts", "written with drafts")
_FRAME_S = 0.05
_AROUND = 8
"""Rows of a terminal that the panels leave to others."""


class Screen:
    """A terminal, or whatever standard output is."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def show(self, what: RenderableType) -> None:
        """Print something that stays; text may be longer than the screen is wide."""
        self.console.print(what, soft_wrap=isinstance(what, Text))

    def say(self, text: str) -> None:
        """Print a line, however long."""
        self.show(Text(printable(text)))

    def bars(self, *tasks: str) -> AbstractContextManager[Tell]:
        """Show a bar for each task, for as long as the block lasts."""
        return bars(*tasks, console=self.console)

    def legend(self) -> None:
        """Show which colour means what."""
        self.show(legend())

    def question(self, prompt: str) -> None:
        """Show what was asked."""
        self.show(Text.assemble(("\n› ", "bold"), printable(prompt)))

    async def play(self, sides: Sequence[Recording]) -> None:
        """Play recordings side by side at their true pace; where nobody looks at it as it changes, show them whole."""
        if not self.console.is_terminal:
            for title, side in zip(TITLES, sides, strict=True):
                self.say(f"\n{title}, {state(side, side.seconds)}:\n{side.text}")
                if unverified := side.at_return()[1]:
                    self.say(f"unverified when the network came back: {unverified}")
            return
        began = time.monotonic()
        with Live(console=self.console, auto_refresh=False) as live:
            while (now := time.monotonic() - began) < ends(sides):
                live.update(frame(self.console, sides, now), refresh=True)
                await asyncio.sleep(_FRAME_S)
            live.update(frame(self.console, sides, now), refresh=True)

    def figures(self, undisturbed: Sequence[Recording], sides: Sequence[Recording]) -> None:
        """Show what both took with the cut, what they had to read in it, and what they lost of the target's text."""
        table = Table(box=None, padding=(0, 3, 0, 0))
        table.add_column()
        for title in TITLES:
            table.add_column(title, header_style="dim", justify="right")
        table.add_row("seconds", *(f"{side.seconds:.1f}" for side in sides))
        table.add_row("  undisturbed", *(f"{side.seconds:.1f}" for side in undisturbed), style="dim")
        if any(side.cut is not None for side in sides):
            table.add_row("readable as it came back", *map(_readable, sides))
            table.add_row("  unverified, and right", *map(_unverified, sides), style="dim")
            table.add_row("  first, s after the cut", *map(_first, sides), style="dim")
        shares = (side.took.accepted / side.tokens for side in undisturbed)
        table.add_row("drafted on the device", *(f"{share:.0%}" for share in shares))
        table.add_row("bytes over the network", *(f"{side.carried:,}" for side in sides))
        table.add_row("round trips", *(f"{side.took.rounds}" for side in sides))
        lost = (undisturbed[0].tokens - side.tokens for side in sides)
        table.add_row(f"tokens lost of {undisturbed[0].tokens}", *map(str, lost))
        self.show(table)
        ratio = undisturbed[1].seconds / undisturbed[0].seconds
        self.say(f"Undisturbed, each node's first answer: with drafts {ratio:.2f} times as long (one try).")
        self.say("Each round trip brings what the target has decided. All texts are equal.")


def ends(sides: Sequence[Recording]) -> float:
    """Seconds until the last of them is complete."""
    return max(side.seconds for side in sides)


def state(side: Recording, now: float) -> str:
    """State of an answer at a time, in words."""
    if is_cut(side, now):
        return f"{now:.1f} s: network cut" + (", the draft writes on" if side.unverified(now) else "")
    cut = "" if side.cut is None or now < side.cut else f", cut at {side.cut:.1f} s"
    return f"complete after {side.seconds:.1f} s{cut}" if now >= side.seconds else f"{now:.1f} s{cut}"


def is_cut(side: Recording, now: float) -> bool:
    """Whether nothing passes at a time."""
    return side.cut is not None and side.cut <= now < side.back


def frame(console: Console, sides: Sequence[Recording], now: float) -> RenderableType:
    """Both answers as they were at a time, each in a panel."""
    width = console.width // len(sides) - 4
    whole = max(len(_text(side, side.seconds).wrap(console, width)) for side in sides)
    height = max(3, min(whole, console.height - _AROUND))
    row = Table.grid(expand=True)
    panels = []
    for title, side in zip(TITLES, sides, strict=True):
        row.add_column(ratio=1)
        lines = Group(*_text(side, now).wrap(console, width)[-height:])
        color = "red" if is_cut(side, now) else "green" if now >= side.seconds else "blue"
        told = state(side, now)
        panels.append(Panel(lines, title=title, subtitle=told, height=height + 2, border_style=color))
    row.add_row(*panels)
    return row


def _text(side: Recording, now: float) -> Text:
    """The text that had come at a time, coloured, and what stood unverified behind it."""
    come = ((printable(piece), style(writer)) for at, piece, writer in side.pieces if at <= now)
    return Text.assemble(*come, (printable(side.unverified(now)), UNVERIFIED))


def _readable(side: Recording) -> str:
    return "" if side.cut is None else f"{sum(map(len, side.at_return())):,}"


def _unverified(side: Recording) -> str:
    size = len(side.at_return()[1])
    return f"{size:,}, {side.right:,}" if size else ""


def _first(side: Recording) -> str:
    cut = side.cut
    return (
        ""
        if cut is None
        else next((f"{at - cut:.1f}" for at, text in side.provisional if text and at >= cut), "")
    )
