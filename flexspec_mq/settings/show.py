"""Settings in force and where each value comes from, without secrets."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from flexspec_mq.settings.flags import shown
from flexspec_mq.settings.load import Loaded

MASK = "********"


def add_show_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add ``config show`` to a command's subcommands; return its parser, which wants the flags of the settings."""
    config = commands.add_parser("config", help="print what is in force, and where it comes from")
    actions = config.add_subparsers(dest="action", metavar="action", required=True)
    shows = actions.add_parser(
        "show", help="all settings, their values and origins; secrets are masked", allow_abbrev=False
    )
    shows.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return shows


def show(loaded: Loaded[Any], *, json: bool) -> None:
    """Print what is in force and where each value comes from."""
    sys.stdout.write(as_json(loaded) if json else as_table(loaded))


def as_table(loaded: Loaded[Any]) -> str:
    """Lines for people: key, value, origin; they end with a line break."""
    rows = [("setting", "value", "from")]
    for key, value in _values(loaded).items():
        entry, origin = loaded.program.entries[key], loaded.origins[key]
        words = entry.setting.default if value is None and origin.kind == "default" else ""
        rows.append((key, words or shown(value), str(origin)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{key:{widths[0]}}  {value:{widths[1]}}  {origin}" for key, value, origin in rows]
    lines.append(f"file: {loaded.file or 'none'}")
    return "\n".join(lines) + "\n"


def as_json(loaded: Loaded[Any]) -> str:
    """A JSON object on a line, for programs."""
    settings = {
        key: {
            "value": _plain(value),
            "from": loaded.origins[key].kind,
            "where": loaded.origins[key].where or None,
            "env": loaded.program.variable(key),
        }
        for key, value in _values(loaded).items()
    }
    file = None if loaded.file is None else str(loaded.file)
    return json.dumps({"file": file, "settings": settings}) + "\n"


def _plain(value: Any) -> Any:
    """As JSON has it, which knows neither paths nor infinity."""
    endless = isinstance(value, float) and not math.isfinite(value)
    return str(value) if endless or isinstance(value, Path) else value


def _values(loaded: Loaded[Any]) -> dict[str, Any]:
    secret = {key for key, entry in loaded.program.entries.items() if entry.setting.secret}
    return {
        key: MASK if key in secret and value is not None else value for key, value in loaded.values.items()
    }
