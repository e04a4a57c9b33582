"""Common parts of the commands that train: flags, progress, and what Ctrl-C does. Importing it imports no torch."""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from flexspec_mq.daemon.progress import bars
from flexspec_mq.errors import Cancelled

_Config = TypeVar("_Config")

log = logging.getLogger(__name__)

LOG_SECONDS = 20.0
"""Seconds between two log lines about progress."""


def add_path(
    parser: argparse._ActionsContainer,
    flag: str,
    metavar: str,
    text: str,
    *,
    required: bool = False,
    many: bool = False,
) -> None:
    """A flag for a path, or for ``many``: then it gives a list, which is empty without the flag."""
    more: dict[str, Any] = {"nargs": "+", "default": []} if many else {}
    parser.add_argument(flag, type=Path, required=required, metavar=metavar, help=text, **more)


def from_flags(config: type[_Config], args: argparse.Namespace, **others: object) -> _Config:
    """A configuration whose fields are those of its flags, and others."""
    names = {field.name for field in fields(config)} - others.keys()  # type: ignore[arg-type]
    given = {name: value for name, value in vars(args).items() if name in names}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return config(**{**given, **lists, **others})


def stopped(out: Path) -> int:
    """Say how to go on with what was stopped; the exit code."""
    print(f"stopped; give the same command again to go on ({out})", file=sys.stderr)
    return Cancelled.exit_code


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that no step is torn; the second one interrupts at once."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


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
