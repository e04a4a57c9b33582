"""Curves of clients over the rate of each, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.benchmarks._common import table
from lab.benchmarks.capacity.strategies import DEFAULT
from lab.benchmarks.replay.figures import best_other, carried_clients

Levels = Mapping[int, Mapping[str, Any]]
"""By number of clients, what `figures` says."""


def carried(levels: Mapping[str, Levels], rates: Sequence[float]) -> list[dict[str, Any]]:
    """For each rate, the clients that each strategy carries at it, and ours over the best of the others.

    Args:
        levels: by strategy.
        rates: tokens per second.
    """
    rows = []
    for wanted in rates:
        clients = {
            name: carried_clients({count: one["rate"] for count, one in found.items()}, wanted)
            for name, found in levels.items()
        }
        ours = best_other(clients, DEFAULT) if DEFAULT in clients and len(clients) > 1 else None
        rows.append({"rate": wanted, "clients": clients, "of_best": ours})
    return rows


def show_levels(levels: Mapping[str, Levels]) -> None:
    """Print what each crowd came to."""
    rows = [
        [
            name,
            count,
            one["rate"],
            one["rate_median"],
            one["tokens_per_s"],
            one["gap_p99_ms"],
            one["first_ms"],
            one["drafted"],
            one.get("rows"),
            one["up"] or None,
            one["down"] or None,
            one["texts"],
            one["wrong"],
        ]
        for name, found in levels.items()
        for count, one in found.items()
    ]
    heads = (
        *("", "clients", "9 in 10 have, tok/s", "median, tok/s", "all, tok/s", "gap p99, ms", "first, ms"),
        *("drafted/token", "rows/token", "B up/token", "B down/token", "texts", "wrong"),
    )
    print(table(heads, rows))
    print()


def show_carried(
    rows: Sequence[Mapping[str, Any]], beside: Mapping[str, Sequence[float | None]] | None = None
) -> None:
    """Print clients over rate.

    Args:
        rows: of `carried`.
        beside: more columns, a value for each row.
    """
    names = list(rows[0]["clients"])
    more = beside or {}
    cells = [
        [
            f"{row['rate']:g}",
            *(row["clients"][name] for name in names),
            row["of_best"],
            *(values[place] for values in more.values()),
        ]
        for place, row in enumerate(rows)
    ]
    print(table(("tokens/s each", *names, f"{DEFAULT} / best other", *more), cells))
    print()


def wrong(levels: Mapping[str, Levels]) -> int:
    """Texts that are not what the target alone writes, or that did not end."""
    return sum(int(one["wrong"]) for found in levels.values() for one in found.values())
