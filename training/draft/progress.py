"""How far a long computation is: a progress bar on a terminal, log lines otherwise."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flexspec_mq.daemon.progress import bars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

LOG_SECONDS = 20.0


@contextmanager
def progress_bar() -> Iterator[Callable[[float, Callable[[], str]], None]]:
    """Gives a function of the share done (0-1) and of a function that says in one line where things are."""
    from rich.console import Console

    console = Console(stderr=True)
    with bars("", console=console) as tell:
        yield (lambda share, text: tell(f"{text()}: {share:.0%}")) if console.is_terminal else _log_lines()


def _log_lines() -> Callable[[float, Callable[[], str]], None]:
    last = -LOG_SECONDS

    def show(share: float, text: Callable[[], str]) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            log.info("%.1f %% %s", 100 * share, text())

    return show
