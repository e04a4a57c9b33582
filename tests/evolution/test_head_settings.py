"""Settings of `flexspec head` and their documentation."""

from __future__ import annotations

from pathlib import Path

from flexspec_mq.evolution.settings import PROGRAM
from flexspec_mq.settings.flags import explained

SETTINGS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_documentation_lists_each_setting() -> None:
    rows = SETTINGS.read_text().splitlines()
    for entry in PROGRAM.entries.values():
        help_, _, rest = explained(PROGRAM, entry).rpartition(" (default: ")
        assert f"| `{entry.key}` | {help_} | {rest.partition('; env ')[0]} |" in rows
