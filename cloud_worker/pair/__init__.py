"""``flexspec pair``: what a draft and a target will do together, before anything is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

MOST = 12
"""Prompts that are answered."""
PROMPTS = (
    "Why is the sky blue?",
    "Summarize in one sentence: The tide rises and falls twice a day because the moon pulls the sea towards it.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate into German: The train to the airport leaves at nine from platform four.",
    "A shop sells pens at 3 for 2 dollars. What do 12 pens cost? Think step by step.",
    "Give me a list of five things to do on a rainy Sunday.",
    "Write a polite e-mail that asks a landlord to repair the heating.",
    "Explain to a child how a plane stays in the air.",
    "Which of these is not a fruit: apple, pear, carrot, plum? Say why.",
    'Make JSON with the keys name, born and country of: "Marie Curie was born in Poland in 1867."',
    "Tell a short story about a lighthouse keeper and a lost dog.",
    "What are the advantages and disadvantages of electric cars?",
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pair`` to a worker's subcommands."""
    parser = commands.add_parser(
        "pair",
        help="say whether a draft and a target fit, and what they will do together",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("draft", metavar="DRAFT", help="draft: a folder, or 'default'")
    parser.add_argument("target", metavar="TARGET", help="target: a folder, a name on the hub, or 'default'")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=f"JSON lines with `prompt` or `turns`, of which {MOST} are answered (default: plain questions)",
    )
