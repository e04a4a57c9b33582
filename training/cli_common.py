"""Common parts of the commands that train: paths, and what Ctrl-C does. Importing it imports no torch."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexspec_mq.errors import Cancelled


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
