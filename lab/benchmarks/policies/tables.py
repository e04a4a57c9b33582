"""What the comparison of policies comes to, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lab.benchmarks._common import table
from lab.benchmarks.policies.compared import COMPARED, changes

Rows = Sequence[Mapping[str, Any]]
_REGRET = {
    "best": "best fixed plan",
    "each": "best of each answer",
    "searched": "searched",
    "streaming": "streaming",
    **{name: name for name in COMPARED},
}


def show(title: str, rows: Rows) -> None:
    """Print all tables of a condition."""
    print(f"\n{title}\n")
    _shares(rows)
    print("\nas multiples of the clairvoyant bound: median and worst tenth of the answers\n")
    _regrets(rows)
    print("\nmean of the slowest tenth of the answers, of streaming's\n")
    lines = [[row["link"], *(f"{row['worst_tenth'][name]:.3f}" for name in COMPARED)] for row in rows]
    worst = ["worst", *(f"{max(row['worst_tenth'][name] for row in rows):.3f}" for name in COMPARED)]
    print(table(["link", *COMPARED], [*lines, worst]))


def _shares(rows: Rows) -> None:
    heads = ["link", "best fixed plan", "s", "streaming", "one plan", *COMPARED]
    one = min(
        rows[0]["fixed_s"], key=lambda name: fmean(row["fixed_s"][name] / row["best_s"] for row in rows)
    )
    rows = [{**row, "one plan": row["fixed_s"][one] / row["best_s"]} for row in rows]
    lines = [
        [row["link"], row["best"], row["best_s"], *(f"{row[name]:.3f}" for name in heads[3:])] for row in rows
    ]
    changing = [row for row in rows if changes(row["link"])]
    for what, of, some in (("mean", fmean, rows), ("worst", max, rows), ("mean, changing", fmean, changing)):
        if some:
            lines.append([what, "", "", *(f"{of([row[name] for row in some]):.3f}" for name in heads[3:])])
    print(table(heads, lines))
    print(f"\none plan: {one}, the best fixed one over all these links")


def _regrets(rows: Rows) -> None:
    names = [name for name in _REGRET if name in rows[0]["regret"]]

    def cells(regret: Mapping[str, Mapping[str, float]]) -> list[str]:
        return [f"{regret[name]['median']:.2f} {regret[name]['worst_tenth']:.2f}" for name in names]

    lines = [[row["link"], row["bound_s"], *cells(row["regret"])] for row in rows]
    mean = {
        name: {
            what: fmean(row["regret"][name][what] for row in rows) for what in ("median", "worst_tenth")
        }
        for name in names
    }  # fmt: skip
    print(table(["link", "bound, s", *map(_REGRET.__getitem__, names)], [*lines, ["mean", "", *cells(mean)]]))


def show_steps(rows: Rows) -> None:
    """Print how well policies do a few rounds after a step."""
    names = list(rows[0]["policies"])
    print(table(["step", *names], [[row["step"], *map(_after, row["policies"].values())] for row in rows]))


def _after(one: Mapping[str, Any]) -> str:
    return (
        f"{one['ratio']:.3f} of {one['seconds'] / one['ratio']:.2f} s ({one['best']}), {one['streaming']:.2f}"
    )
