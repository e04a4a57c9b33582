"""Progress of what takes longer than a moment: a bar that moves on a terminal, a line per stage elsewhere.

A process in the background of a terminal shares it with others, and a bar would be torn by their lines: so it writes
whole lines too.

Whatever works tells its stages as short texts. A stage that ends in a percentage, as in ``reading weights: 40 %``,
fills the bar; any other lets it pulse, beside the seconds that have passed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol, TextIO

from flexspec_mq.daemon.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

_SHARE = re.compile(r"[:,]? *(\d{1,3}) ?%$")


class Tell(Protocol):
    """A function that shows `text` as the newest stage of `task`."""

    def __call__(self, text: str, task: str = "") -> None: ...  # noqa: D102


def split(text: str) -> tuple[str, int | None]:
    """A stage's text without its percentage, and the percentage."""
    match = _SHARE.search(text)
    if match is None or int(match[1]) > 100:
        return text, None
    return text[: match.start()], int(match[1])


def in_foreground(out: IO[str]) -> bool:
    """Whether a terminal is ours to draw on: not that of a shell or a program that we run behind."""
    try:
        return os.tcgetpgrp(out.fileno()) == os.getpgrp()
    except OSError:  # no terminal, or one without jobs
        return True


@contextmanager
def bars(*tasks: str, console: Console) -> Iterator[Tell]:
    """Bars of several tasks at once on a terminal that is ours; they vanish at the end. Nothing is shown elsewhere.

    Args:
        tasks: their names, in the order of the bars.
        console: where they are drawn.
    """
    if not (console.is_terminal and in_foreground(console.file)):
        yield lambda text, task="": None  # noqa: ARG005
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        rows = {task: progress.add_task(escape(task), total=None) for task in tasks}

        def tell(text: str, task: str = "") -> None:
            what, share = split(text)
            title = f"{task}: {what}" if task else what
            total, done = (None, 0) if share is None else (100, share)
            progress.update(rows[task], description=escape(printable(title)), total=total, completed=done)

        yield tell


@contextmanager
def stages() -> Iterator[Tell]:
    """A bar on standard error if it can be drawn there, and the stages as whole lines otherwise.

    Other text that shall stay to be read is said after the block.
    """
    # As it is now: a block inside may swallow what libraries write to standard error.
    err = sys.stderr
    if not (err.isatty() and in_foreground(err)):
        yield lambda text, task="": say(f"{task}: {text}" if task else text, err)
        return
    from rich.console import Console

    with bars("", console=Console(file=err)) as tell:
        yield tell


def say(text: str, out: TextIO | None = None) -> None:
    """Write a line on standard error, at once; whoever's words are in it, none of them steers a terminal."""
    out = out or sys.stderr
    out.write(f"{printable(text)}\n")
    out.flush()


def answer(text: str) -> None:
    """Write a line of what a command was asked for on standard output, at once."""
    say(text, sys.stdout)
