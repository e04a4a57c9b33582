"""Answers, as if somebody had given them."""

from __future__ import annotations

from typing import Any

from lab.bench.figures import Sample
from lab.bench.meter import Costs


def sample(question: int, side: str, took: float, **changes: Any) -> Sample:
    """One answer of ten tokens in four rounds; `changes` are fields."""
    fields: dict[str, Any] = {
        "category": "c",
        "text": "a",
        "first": took / 4,
        "tokens": 10,
        "proposed": 9,
        "drafted": 8,
        "accepted": 6,
        "rounds": 4,
        "bytes_up": 100,
        "bytes_down": 50,
        "costs": Costs(1000, 500, 5, 0.25),
        "energy_j": 3.0,
    }
    return Sample(question=question, side=side, seconds=took, **(fields | changes))
