"""Parts of all ``doctor`` commands: flags, progress, output as a list or as JSON, and the exit code."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from flexspec_mq import waiting
from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.progress import stages
from flexspec_mq.doctor.checks import Finding, State
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.flags import positive

Examine = Callable[[Callable[[str], None], float], Coroutine[Any, Any, list[Finding]]]


_MARKS = {
    State.OK: ("✓", "green"),
    State.WARNING: ("!", "yellow"),
    State.FAILED: ("✗", "bold red"),
}


def add_doctor_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``doctor`` to a daemon's subcommands; return its parser, which wants the flags of the settings."""
    parser = commands.add_parser(
        "doctor",
        help="check everything that the daemon needs, and say what is wrong and how to mend it",
        allow_abbrev=False,
    )
    # Not --timeout: that is among the flags of texts in other commands, and would be taken for theirs.
    parser.add_argument(
        "--within",
        type=positive,
        default=2 * waiting.KEEPALIVE,
        metavar="SECONDS",
        help=f"seconds for all checks of one daemon (default: {2 * waiting.KEEPALIVE:g})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a list")
    return parser


def run(args: argparse.Namespace, prepare: Callable[[], Examine]) -> int:
    """Examine, print, and return the exit code."""
    began = time.monotonic()
    try:
        examine = prepare()
        with stages() as tell:
            findings = asyncio.run(examine(tell, args.within))
    except UsageError as error:
        findings = [Finding("settings", State.FAILED, error.message, error.hint, "settings")]
    return print_findings(findings, time.monotonic() - began, as_json=args.json)


def print_findings(findings: Sequence[Finding], seconds: float, *, as_json: bool) -> int:
    """Print findings and return the exit code that they come to: that of the first failure, 0 without any."""
    code = next((finding.exit_code for finding in findings if finding.exit_code), 0)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        document = {"ok": code == 0, "seconds": round(seconds, 1), "findings": rows}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _show(findings, seconds)
    return code


def _show(findings: Sequence[Finding], seconds: float) -> None:
    """Print a list for people: each finding, what is wrong with it and how to mend it; the sum at the end."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.state is State.SKIPPED:
            skipped.setdefault(finding.detail, []).append(finding.name)
            continue
        mark, style = _MARKS[finding.state]
        detail = f"{finding.fault}: {finding.detail}" if finding.fault else finding.detail
        text = Text(printable(detail))
        text.append(printable(f"\n→ {finding.advice}") if finding.advice else "", style="cyan")
        table.add_row(Text(mark, style=style), Text(finding.name, style=style), text)
    for why, names in skipped.items():
        table.add_row(
            *(Text(cell, style="dim") for cell in ("–", "not checked")),
            Text(f"{', '.join(names)}: {printable(why)}"),
        )
    console = Console(highlight=False, soft_wrap=False)
    console.print(table)
    counts = Counter(finding.state for finding in findings)
    counted = ((State.FAILED, "failed"), (State.WARNING, "with a warning"), (State.SKIPPED, "not checked"))
    words = ", ".join(f"{counts[state]} {word}" for state, word in counted if counts[state]) or "all is well"
    console.print(Text(f"{words} ({seconds:.0f} s)"))
