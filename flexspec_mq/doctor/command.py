"""What the ``doctor`` commands of the daemons share: flags, progress, and how they end."""

from __future__ import annotations

import asyncio
import sys
import time
from math import inf
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.progress import stages
from flexspec_mq.doctor.findings import Finding, State, as_json, exit_code, show
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Sequence

    Examine = Callable[[Callable[[str], None], float], Coroutine[Any, Any, list[Finding]]]

TIMEOUT = 60.0
"""Seconds for one daemon's setup, unless told otherwise."""


def add_doctor_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``doctor`` to a daemon's subcommands; return its parser, which wants the flags of the settings."""
    parser = commands.add_parser(
        "doctor",
        help="check everything that the daemon needs, and say what is wrong and how to mend it",
        allow_abbrev=False,
    )
    add_doctor_flags(parser)
    return parser


def add_doctor_flags(parser: argparse.ArgumentParser) -> None:
    """Add what each doctor takes beside the settings."""
    # Not --timeout: that is among the flags of texts in other commands, and would be taken for theirs.
    parser.add_argument(
        "--within",
        type=_seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"seconds for all checks of one daemon (default: {TIMEOUT:g})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a list")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < inf:
        raise ValueError
    return value


def run(part: str, args: argparse.Namespace, prepare: Callable[[], Examine]) -> int:
    """Examine, print, and return the exit code.

    Args:
        part: ``edge`` or ``cloud``.
        args: with ``json`` and ``within``.
        prepare: reads the settings and returns the examination.
    """
    began = time.monotonic()
    try:
        examine = prepare()
        with stages() as tell:
            findings = asyncio.run(examine(tell, args.within))
    except UsageError as error:
        findings = [Finding("settings", State.FAILED, error.message, error.hint, "settings", part)]
    return tell_findings(findings, time.monotonic() - began, json=args.json)


def tell_findings(findings: Sequence[Finding], seconds: float, *, json: bool) -> int:
    """Print findings and return the exit code that they come to."""
    if json:
        sys.stdout.write(as_json(findings, seconds))
    else:
        from rich.console import Console

        show(findings, seconds, Console(highlight=False, soft_wrap=False))
    return exit_code(findings)
