"""How far a long computation is: a progress bar on a terminal, log lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

LOG_SECONDS = 20.0


@contextmanager
def shown() -> Iterator[Callable[[float, Callable[[], str]], None]]:
    """Gives a function of the share done (0-1) and of a function that says in one line where things are."""
    if not sys.stderr.isatty():
        yield _log_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    percent, what = TextColumn("{task.percentage:>5.1f} %"), TextColumn("{task.description}")
    with Progress(BarColumn(), percent, TimeElapsedColumn(), what, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, text: bar.update(task, completed=share, description=text())


def _log_lines() -> Callable[[float, Callable[[], str]], None]:
    last = -LOG_SECONDS

    def show(share: float, text: Callable[[], str]) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            log.info("%.1f %% %s", 100 * share, text())

    return show
