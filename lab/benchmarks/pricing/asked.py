"""Which questions are asked, and words about how far things are; without a model's libraries."""

from __future__ import annotations

import sys
from argparse import Namespace

from lab.bench.questions import OWN, Question, read_questions, spread

ALL = "all"
"""The name of all categories together."""


def chosen_questions(options: Namespace) -> tuple[list[Question], int]:
    """The questions to ask, and how many there were.

    Raises:
        UsageError: they cannot be read.
    """
    everything = read_questions(options.prompts or OWN)
    return spread(everything, options.questions or len(everything)), len(everything)


def say(text: str) -> None:
    """Tell people how far things are."""
    print(text, file=sys.stderr, flush=True)
