"""What the benchmark of leaves prints, and where a bar is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.bench.figures.bootstrap import shown
from lab.benchmarks._common import table
from lab.benchmarks.leaves.compared import Played, Ratio, ratio
from lab.benchmarks.leaves.rules import PLAIN

SHOWN = (1, 2, 3, 4, 6, 8)
"""Lengths of chains that the table has; the JSON line has all."""

ByRule = Mapping[str, Ratio]


def gains(played: Sequence[Played], k: int) -> dict[str, Any]:
    """Tokens and rows of a round, by rule and length, and what leaves add to the tokens.

    Args:
        played: chains alone first.
        k: length of the chains whose gain has an interval.
    """
    found = {}
    plain = played[0].only(k)
    for one in played:
        rates, mine = one.rates, one.only(k)
        found[one.rule.name] = {
            "lengths": list(one.lengths),
            **{name: getattr(rates, name)[0].tolist() for name in ("tokens", "rows", "leaves", "by_leaf")},
            "gain": ratio(plain, mine, plain.rates.tokens, mine.rates.tokens, least=False).interval.scaled(
                1.0
            ),
        }
    return found


def show_gains(found: Mapping[str, Any], k: int) -> None:
    """Print tokens and rows of a round."""
    lengths = next(iter(found.values()))["lengths"]
    columns = [lengths.index(one) for one in SHOWN if one in lengths]
    at = lengths.index(k)
    rows = [
        [
            name,
            *(f"{one['tokens'][column]:.2f} ({one['rows'][column]:.1f})" for column in columns),
            shown(one["gain"], ".3f"),
            one["by_leaf"][at] / one["leaves"][at] if one["leaves"][at] else None,
        ]
        for name, one in found.items()
    ]
    print(table(
        ("tokens a round (rows)", *(f"K = {lengths[column]}" for column in columns), f"of the chain, K = {k}",
         "right / leaf"),
        rows,
    ))  # fmt: skip


def show_ratios(title: str, by_case: Mapping[str, ByRule], *, least: bool) -> None:
    """Print what the chain alone costs in each case, every rule's share of it, and the best one's interval."""
    names = [name for name in next(iter(by_case.values())) if name != PLAIN.name]
    rows: list[list[Any]] = []
    for case, found in by_case.items():
        best = (min if least else max)(found, key=lambda name: found[name].interval.value)
        one = found[best]
        rows.append(
            [
                *(case, one.plain, *(f"{found[name].interval.value:.3f}" for name in names)),
                *(best, shown(one.interval.scaled(1.0), ".3f"), f"{one.plain_k} / {one.leaf_k}"),
            ]
        )
    print(table((title, PLAIN.name, *names, "best", "its ratio", "K without / with"), rows))


def judged(by_case: Mapping[str, ByRule], bar: float, *, least: bool) -> dict[str, Any]:
    """Cases and rules that reach a bar, by their value, and by the worse end of their interval.

    Args:
        by_case: ratios of all rules.
        bar: what has to be saved, or added, as a share.
        least: whether less is better.
    """
    reached: list[str] = []
    surely: list[str] = []
    for case, found in by_case.items():
        for name, one in found.items():
            gain, worse = one.interval.value - 1.0, one.interval.low - 1.0
            if least:
                gain, worse = 1.0 - one.interval.value, 1.0 - one.interval.high
            reached += [f"{case}: {name}"] * (gain >= bar)
            surely += [f"{case}: {name}"] * (worse >= bar)
    return {"bar": bar, "reached": reached, "surely": surely, "cases": len(by_case)}
