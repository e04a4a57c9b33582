"""Answers of several sides, compared: figures of each, and its seconds as shares of others', with tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.bench.figures import seconds
from lab.bench.figures.bootstrap import shown
from lab.bench.figures.seconds import RATIOS, Sample
from lab.bench.traditional.schemes import IDS, TRADITIONAL
from lab.benchmarks._common import table
from lab.benchmarks.pricing.asked import ALL

CURRENT, FIRST, STREAMING, COLOCATED, BOTH = "current", "first", "streaming", "colocated", "both"
_BASES = (STREAMING, COLOCATED, FIRST, TRADITIONAL, IDS)
"""Sides that others are shares of."""
_TIMES = {
    "mean, s": "mean_s",
    "median, s": "median_s",
    "worst tenth, s": "worst_tenth_s",
    "first, s": "median_first_s",
    "tokens/s": "tokens_per_s",
}
_COSTS = {
    "tokens/round": "tokens_per_round",
    "accepted": "acceptance",
    "drafted": "proposed",
    "payload B up": "bytes_up",
    "down": "bytes_down",
    "IP B up": "ip_up",
    "down ": "ip_down",
    "rows wasted": "wasted_edge",
    "own": "wasted_own",
}


def compare(samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    """Figures of each side, and its seconds as shares of others', by category and altogether."""
    categories = {sample.category for sample in samples}
    groups = {name: [one for one in samples if one.category == name] for name in sorted(categories)}
    return {name: _of_group(group, seed) for name, group in {**groups, ALL: list(samples)}.items()}


def _of_group(group: Sequence[Sample], seed: int) -> dict[str, Any]:
    by_side: dict[str, list[Sample]] = {}
    for sample in group:
        by_side.setdefault(sample.side, []).append(sample)
    result: dict[str, Any] = {name: seconds.figures(found) for name, found in by_side.items()}
    for name, found in by_side.items():
        for base in _BASES:
            if base in by_side and name not in (base, STREAMING):
                result[name][f"of_{base}"] = seconds.ratios(found, by_side[base], seed=seed)
    return result


def show(title: str, found: Mapping[str, Any]) -> None:
    """Print the tables of one link and delay."""
    print(title)
    sides: dict[str, Any] = found[ALL]
    for columns in (_TIMES, _COSTS):
        rows = [[name, *(one[key] for key in columns.values())] for name, one in sides.items()]
        print(table(["", *columns], rows))
        print()
    for base in _BASES:
        ratios = [(name, one[f"of_{base}"]) for name, one in sides.items() if f"of_{base}" in one]
        if ratios:
            rows = [
                [name, *(shown(ratio[key], ".2f") for key in RATIOS), ratio["verdict"]]
                for name, ratio in ratios
            ]
            print(table([f"of {base}", "of means", "of medians", "of worst tenths", "means"], rows))
            print()
    # Each group has its sides in the order in which they answered.
    others = [name for name in sides if name != STREAMING]
    rows = [
        [
            category,
            group[STREAMING]["answers"],
            group[STREAMING]["mean_s"],
            *(
                f"{shown(group[name]['of_streaming']['total'], '.2f')} {group[name]['of_streaming']['verdict']}"
                for name in others
            ),
        ]
        for category, group in found.items()
    ]
    print(table(["", "answers", "streaming, s", *(f"{name} of streaming" for name in others)], rows))
    print()
