"""``flexspec pair``: what a draft and a target will do together, before anything is deployed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_type_hints

from cloud_worker.settings import WorkerSettings

MOST = 12
"""Prompts that are answered."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pair`` to a worker's subcommands."""
    parser = commands.add_parser(
        "pair",
        help="say whether a draft and a target fit, and what they will do together",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("draft", metavar="DRAFT", help="draft: a folder, a GGUF file, or 'default'")
    parser.add_argument("target", metavar="TARGET", help="target: the same, or a name on the hub")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=f"JSON lines with `prompt` or `turns`, of which {MOST} are answered (default: plain questions)",
    )
    choices = get_type_hints(WorkerSettings, include_extras=True)["weights"].__metadata__[0].choices
    parser.add_argument("--weights", choices=choices, default="auto", help="of the target, as a worker's")
