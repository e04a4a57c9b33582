"""Where on a channel each question begins: drawn once, and the same for all who answer it."""

from __future__ import annotations

import random

from lab.testbed.link.profiles import LinkPlan

DRAWN_S = 3600.0
"""Seconds of a channel without a recording; it is drawn as far as it is asked about and does not repeat."""


def offset(plan: LinkPlan, seed: int, question: int) -> float:
    """Second of the channel at which a question begins, to the millisecond; uniform over the longest recording.

    Args:
        plan: of the link.
        seed: of the run.
        question: its place.
    """
    length = plan.recorded_s or DRAWN_S
    return round(random.Random(f"offset/{seed}/{question}").uniform(0.0, length), 3)
