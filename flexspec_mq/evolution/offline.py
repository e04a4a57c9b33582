"""Common parts of commands that need no broker: flags, printing, Ctrl-C. Importing it imports no torch."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexspec_mq.errors import Cancelled, UsageError


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


def add_numbers(parser: argparse.ArgumentParser, *numbers: tuple[str, int | float, str, str]) -> None:
    """Flags for numbers: each with its default, the name of its value, and its help; and ``--threads``."""
    threads = ("--threads", 1, "N", "processor threads to use")
    for flag, default, metavar, text in (*numbers, threads):
        parser.add_argument(
            flag, type=type(default), default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )


def base_path(args: argparse.Namespace) -> Path:
    """The folder that ``--base`` names.

    Raises:
        UsageError: it names no folder.
        ModelError: the default model cannot be made.
    """
    from flexspec_mq.models.load import resolve

    folder = resolve(args.base)
    if not isinstance(folder, Path):
        raise UsageError(f"there is no folder {args.base}", hint="name a checkpoint folder, or 'default'")
    return folder


def prepare(args: argparse.Namespace) -> None:
    """Log lines on standard error, but on a terminal, where a bar is; torch uses as many ``--threads`` as it is told.

    Raises:
        UsageError: that is none.
    """
    import torch

    if not sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads < 1:
        raise UsageError(f"--threads {args.threads}: at least one is needed")
    torch.set_num_threads(args.threads)


def print_figures(figures: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(figures))  # noqa: T201


def stopped(out: Path) -> int:
    """Say how to go on with what was stopped; the exit code."""
    print(f"stopped; give the same command again to go on ({out})", file=sys.stderr)  # noqa: T201
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
