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


def add_pairs_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pairs try`` to a worker's subcommands; what lists pairs needs no worker."""
    pairs = commands.add_parser("pairs", help="measure a named pair and pin its files", allow_abbrev=False)
    actions = pairs.add_subparsers(dest="action", metavar="action", required=True)
    tries = actions.add_parser(
        "try",
        help="fetch a named pair, measure it, and pin its files",
        description="Fetch both files of a named pair, measure what the two do together on this machine, and keep its "
        "row with their hashes, so that --pair takes it from then on.",
        allow_abbrev=False,
    )
    tries.add_argument("name", metavar="NAME", help="name of a pair, as `flexspec pairs` lists it")
    tries.add_argument(
        "--pair-source",
        metavar="PLACE",
        help="a mirror of the hub, or a folder with the files (default: HF_ENDPOINT, or huggingface.co)",
    )
