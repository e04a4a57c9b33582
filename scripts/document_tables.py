"""Tables that the code makes for documents, which the site has in their places (`docs/conf.py`).

``python scripts/document_tables.py docs/protocol.md`` prints a document with its tables.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import broker.settings
import cloud_worker.settings
import edge_node.config
from edge_node.text import machine as text
from flexspec_mq import waiting
from flexspec_mq.chat.settings import PROGRAM as CHAT
from flexspec_mq.energy.presets import Device, Figure, Radio, built_in, figures_of
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.settings import PROGRAM as HEAD
from flexspec_mq.protocol.edge import session
from flexspec_mq.protocol.table import TransitionTable
from flexspec_mq.protocol.worker import machine
from flexspec_mq.settings import Program
from flexspec_mq.settings.flags import explained


def rendered(document: str) -> str:
    """A document with the tables of the code in place of those that it has.

    Each stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
        UsageError: it has no place for any table.
    """
    end, places = "<!-- end -->", 0
    for name, table in TABLES.items():
        begin = f"<!-- table: {name} -->\n"
        before, _, rest = document.partition(begin)
        if end not in rest:
            continue
        places += 1
        document = f"{before}{begin}\n{table()}\n\n{rest[rest.index(end) :]}"
    if not places:
        raise UsageError(
            f"the document has no place for a table: {', '.join(TABLES)}",
            hint=f"add <!-- table: NAME --> {end}",
        )
    return document


def waits() -> str:
    """The constants of `flexspec_mq.waiting` as a Markdown table, by the headings that stand above them."""
    source = Path(waiting.__file__).read_text(encoding="utf-8")
    lines, body = source.splitlines(), ast.parse(source).body
    rows = [_row("name", "seconds", "what for"), "|---|---|---|"]
    for statement, about in pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(about, ast.Expr):
            continue
        heading = lines[statement.lineno - 3]
        if heading.startswith("# "):
            rows.append(_row(f"**{heading.removeprefix('# ')}**", "", ""))
        name, text = ast.unparse(statement.target), ast.literal_eval(about.value)
        value = getattr(waiting, name)
        seconds = ", ".join(f"{each:g}" for each in (value if isinstance(value, tuple) else (value,)))
        rows.append(_row(f"`{name}`", seconds, " ".join(text.split())))
    return "\n".join(rows)


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


def settings(program: Program[Any]) -> str:
    """All settings of a daemon as their flags explain them, without the variable, whose name follows from the key."""
    rows = [_row("key", "meaning", "default"), "|---|---|---|"]
    for entry in program.entries.values():
        about, _, default = explained(program, entry).rpartition(" (default: ")
        rows.append(_row(f"`{entry.key}`", about, default.rpartition("; env ")[0]))
    return "\n".join(rows)


def packages() -> str:
    """Packages of the product, two levels deep, by the summaries of their docstrings."""
    root, rows = Path(__file__).parents[1], [_row("package", "purpose"), "|---|---|"]
    for name in ("schemas", "edge_node", "cloud_worker", "broker", "flexspec_mq"):
        for place in sorted((*(root / name).glob("__init__.py"), *(root / name).glob("*/__init__.py"))):
            about = ast.get_docstring(ast.parse(place.read_text(encoding="utf-8"))) or ""
            summary = about.partition("\n\n")[0].replace("``", "`")
            rows.append(_row(f"`{place.parent.relative_to(root)}`", " ".join(summary.split())))
    return "\n".join(rows)


def presets_table() -> str:
    """A table of devices, one of radios, and the numbered sources that they refer to."""
    presets = built_in()
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


TABLES: Mapping[str, Callable[[], str]] = {
    "edge": partial(markdown, session.TABLE),
    "worker": partial(markdown, machine.TABLE),
    "text": partial(markdown, text.TABLE),
    "waiting": waits,
    "presets": presets_table,
    "packages": packages,
    "edge settings": partial(settings, edge_node.config.PROGRAM),
    "worker settings": partial(settings, cloud_worker.settings.PROGRAM),
    "broker settings": partial(settings, broker.settings.PROGRAM),
    "head settings": partial(settings, HEAD),
    "chat settings": partial(settings, CHAT),
}
"""Transition tables, waits, presets of energy, packages and settings, by the name of their place in a document."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, help="Markdown file with places for the tables")
    sys.stdout.write(rendered(parser.parse_args(arguments).document.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
