"""What the commands of ``flexspec draft`` share. Importing it imports no torch."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.errors import Cancelled, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator


def add_base(parser: argparse.ArgumentParser) -> None:
    """``--base``; `base_path` reads it."""
    parser.add_argument(
        "--base", required=True, metavar="FOLDER", help="checkpoint folder of the base model, or 'default'"
    )


def add_delta(parser: argparse._ActionsContainer, *, required: bool = False) -> None:
    """``--delta``."""
    text = "a trained delta" if required else "a trained delta (default: the one that ships)"
    parser.add_argument("--delta", type=Path, required=required, metavar="FILE", help=text)


def add_numbers(
    parser: argparse.ArgumentParser, numbers: Iterable[tuple[str, int | float, str, str]]
) -> None:
    """Flags for numbers: each with its default, the name of its value, and its help."""
    for flag, default, metavar, text in numbers:
        parser.add_argument(
            flag, type=type(default), default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``; `prepare` heeds it."""
    parser.add_argument(
        "--threads", type=int, default=1, help="processor threads to use (default: %(default)s)"
    )


def base_path(args: argparse.Namespace) -> Path:
    """The folder that ``--base`` names.

    Raises:
        UsageError: It names no folder.
        ModelError: The default model cannot be made.
    """
    from flexspec_mq.models.load import resolve

    found = resolve(args.base)
    if not isinstance(found, Path):
        raise UsageError(f"there is no folder {args.base}", hint="name a checkpoint folder, or 'default'")
    return found


def prepare(args: argparse.Namespace) -> None:
    """Log lines on standard error, but on a terminal, where a bar is; torch uses as many ``--threads`` as it is told.

    Raises:
        UsageError: That is none.
    """
    import torch

    if not sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads < 1:
        raise UsageError(f"--threads {args.threads}: at least one is needed")
    torch.set_num_threads(args.threads)


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
