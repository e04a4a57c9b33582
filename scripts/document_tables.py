"""Write the transition tables into docs/protocol.md, or print the presets of docs/energy.md.

``python scripts/document_tables.py [--check] docs/protocol.md``, and ``--presets`` in place of both.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.energy.presets import Device, Figure, Presets, Radio, built_in, figures_of
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
        document = f"{before}{begin}\n{markdown(table)}\n\n```mermaid\n{mermaid(table)}\n```\n\n{after}"
    return document


def markdown(table: TransitionTable[Any, Any]) -> str:
    """The rows as a Markdown table; states and events for which the same is said share a line."""
    events_of: dict[tuple[str, str], list[str]] = {}
    for row in table:
        following = "same" if row.next == (row.state,) else ", ".join(row.next)
        text = f"{row.condition} | {row.action} | {following} |"
        events_of.setdefault((row.state, text), []).append(row.event)
    states_of: dict[tuple[str, str], list[str]] = {}
    for (state, text), events in events_of.items():
        states_of.setdefault((", ".join(events), text), []).append(state)
    lines = [f"| {', '.join(states)} | {events} | {text}" for (events, text), states in states_of.items()]
    return "\n".join(["| state | event | condition | action | next |", "|---|---|---|---|---|", *lines])


def mermaid(table: TransitionTable[Any, Any]) -> str:
    """The changes of state as a Mermaid diagram; rows that stay where they are are left out."""
    arrows: dict[tuple[str, str], dict[str, None]] = {}
    for row in table:
        for following in row.next:
            if following != row.state:
                arrows.setdefault((row.state, following), {})[row.event] = None
    lines = (f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items())
    return "\n".join(["stateDiagram-v2", *lines])


def presets_table(presets: Presets) -> str:
    """A table of devices, one of radios, and the numbered sources that they refer to."""
    numbers = {key: number for number, key in enumerate(presets.sources, 1)}
    sources = [
        textwrap.fill(
            f"{number}. `{key}`: {presets.sources[key]}.",
            120,
            subsequent_indent=" " * len(f"{number}. "),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for key, number in numbers.items()
    ]
    parts = (_table(presets.devices, numbers), _table(presets.radios, numbers), "\n".join(sources))
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Device] | Mapping[str, Radio], numbers: Mapping[str, int]) -> str:
    names = list(figures_of(next(iter(rows.values()))))
    lines = [_row("", *names, ""), "|---" * (2 + len(names)) + "|"]
    for name, one in rows.items():
        cells = [_cell(figure, numbers) for figure in figures_of(one).values()]
        about = f"{one.about}; by {one.radio}" if isinstance(one, Device) else one.about
        lines.append(_row(f"`{name}`", *cells, about))
    return "\n".join(lines)


def _cell(figure: Figure, numbers: Mapping[str, int]) -> str:
    return f"{figure.value:g} [{numbers[figure.source]}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or print; returns the exit code, 1 where a document that is only checked is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", help="Markdown file with places for the tables")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if it is not up to date"
    )
    parser.add_argument("--presets", action="store_true", help="print the presets of devices and radios")
    options = parser.parse_args(arguments)
    if options.presets:
        sys.stdout.write(presets_table(built_in()) + "\n")
        return 0
    if options.document is None:
        parser.error("name a document, or say --presets")
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
