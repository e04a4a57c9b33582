"""Write the transition tables into their document: ``python -m flexspec_mq.protocol [--check] docs/protocol.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.edge import session
from flexspec_mq.protocol.table import TransitionTable
from flexspec_mq.protocol.worker import machine

TABLES: Mapping[str, TransitionTable[Any, Any]] = {"edge": session.TABLE, "worker": machine.TABLE}
"""Tables of both sides, by the name of their place in the document."""


def rendered(document: str) -> str:
    """A document with the tables and state diagrams of the code in place of those that it has.

    Each stands between ``<!-- table: SIDE -->`` and ``<!-- end -->``.

    Raises:
        UsageError: it has no place for a table.
    """
    for side, table in TABLES.items():
        begin, end = f"<!-- table: {side} -->\n", "<!-- end -->"
        before, found, rest = document.partition(begin)
        if not found or end not in rest:
            raise UsageError(
                f"the document has no place for the table of the {side}", hint=f"add {begin.strip()} {end}"
            )
        after = rest[rest.index(end) :]
        document = f"{before}{begin}\n{table.markdown()}\n\n```mermaid\n{table.mermaid()}\n```\n\n{after}"
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables to a document, or see whether they are there; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flexspec_mq.protocol", description=__doc__)
    parser.add_argument("document", type=Path, help="Markdown file with places for the tables")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if it is not up to date"
    )
    options = parser.parse_args(arguments)
    is_there = options.document.read_text(encoding="utf-8")
    wanted = rendered(is_there)
    if not options.check:
        options.document.write_text(wanted, encoding="utf-8")
    elif wanted != is_there:
        sys.stderr.write(f"{options.document} is not up to date\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
