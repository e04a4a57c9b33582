"""An answer on a terminal as it comes, coloured by who wrote it. The demo and the chat show the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from flexspec_mq.daemon.printable import printable

if TYPE_CHECKING:
    from schemas.openai import Writer

STYLES: dict[Writer, tuple[str, str]] = {
    "device": ("green", "drafted on the device"),
    "lookup": ("magenta", "looked up on the device"),
    "worker": ("italic cyan", "drafted by the worker"),
    "target": ("bold yellow", "written by the target"),
    "grammar": ("dim", "grammar"),
    "cloud": ("blue", "sent again: worker or target"),
}
"""Style and meaning by who wrote a piece."""
UNVERIFIED = "dim italic"
"""Style of provisional text."""


def legend() -> Text:
    """Which colour means what."""
    known = (*STYLES.values(), (UNVERIFIED, "unverified, by the draft alone"))
    return Text("   ").join(Text(meaning, style) for style, meaning in known)


def style(writer: Writer | None) -> str:
    """The style of a piece by its writer; none where that is not known."""
    return "" if writer is None else STYLES[writer][0]


class AnswerView:
    """Display of an answer. Rows that are full scroll away; the row being written and the note below it stay live.

    Where nobody looks at it as it changes, it is the text alone, untouched.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = Text()  # since the last line break
        self._rows = 0  # of this line that have scrolled away
        # A terminal that is resized inside of a line must not repeat or lose rows.
        self._width = console.width
        self._note = ""
        self._unverified = ""
        self._live = Live(console=console, refresh_per_second=12, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._line.append(self._unverified, UNVERIFIED)
            self._scroll(self._wrapped())
        else:
            self._console.file.write("\n")
            self._console.file.flush()

    def text(self, pieces: Iterable[tuple[str, Writer | None]]) -> None:
        """More text, in pieces; see `style`."""
        for piece, writer in pieces:
            if not self._console.is_terminal:
                self._console.file.write(piece)
                self._console.file.flush()
                continue
            *lines, rest = printable(piece).split("\n")
            for line in lines:
                self._line.append(line, style(writer))
                self._scroll(self._wrapped())
                self._line, self._rows, self._width = Text(), 0, self._console.width
            self._line.append(rest, style(writer))
        self._refresh()

    def unverified(self, text: str) -> None:
        """Show provisional text behind the answer, in place of the one before; what stands at the end stays."""
        self._unverified = printable(text)
        self._refresh()

    def note(self, note: str) -> None:
        """Show a note below the text while it is written."""
        self._note = printable(note)
        self._refresh()

    def _wrapped(self) -> list[Text]:
        """The line's rows that are still to be shown, at least one."""
        return list(self._line.wrap(self._console, self._width))[self._rows :] or [Text()]

    def _scroll(self, rows: list[Text]) -> None:
        for row in rows:
            self._live.console.print(row, overflow="ignore", no_wrap=True, crop=False)
            self._rows += 1

    def _refresh(self) -> None:
        if not self._console.is_terminal:
            return
        *full, last = self._wrapped()
        self._scroll(full)
        last = Text.assemble(last, (self._unverified, UNVERIFIED))
        parts = [last] if last.plain or not self._note else []
        if self._note:
            parts.append(Text(self._note, style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*parts), refresh=True)
