"""Common parts of commands that need no broker: flags and printing. Importing it imports no torch."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError


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
    from flexspec_mq.models.load import find_model

    folder = find_model(args.base)
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
