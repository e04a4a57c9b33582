"""Two ways of speculation on the same questions: their figures, and the differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Ends, Floats, Interval
from lab.benchmarks.parts.rounds import Tally

Statistic = Callable[[Floats], Floats]


def figures(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Rounds of one way, as the JSON line gives them."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    drafted, accepted = sum(total.offered), sum(total.reached)
    return {
        "texts": total.texts,
        "tokens": total.tokens,
        "rounds": total.rounds,
        "tokens_per_round": total.tokens_per_round,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance": accepted / max(1, drafted),
        "survival": total.survival,
    }


def differences(first: Sequence[Tally], second: Sequence[Tally], k: int, *, seed: int) -> dict[str, Interval]:
    """What the second way has more than the first.

    Args:
        first: rounds by question.
        second: likewise, of the same questions.
        k: tokens drafted per round.
        seed: of the bootstrap, which draws questions.

    Returns:
        ``acceptance``, accepted per drafted; ``tokens_per_round``; ``S1`` to ``S<k>``, the share of drafts that
        were accepted up to each position.

    Raises:
        ValueError: not the same number of questions, or none.
    """
    sums = np.hstack([_sums(first, k), _sums(second, k)])
    statistics = _statistics(k)
    return {
        name: bootstrap.of_sums(sums, _difference(statistic), seed=seed)
        for name, statistic in statistics.items()
    }


def _sums(tallies: Sequence[Tally], k: int) -> Floats:
    """For each question its tokens, rounds, k times offered and k times reached: [questions, 2 + 2k]."""
    rows = []
    for tally in tallies:
        missing = [0] * (k - len(tally.offered))
        rows.append([tally.tokens, tally.rounds, *tally.offered, *missing, *tally.reached, *missing])
    return np.array(rows, dtype=np.float64).reshape(len(tallies), 2 + 2 * k)


def _statistics(k: int) -> dict[str, Statistic]:
    """Ratios of sums, from [draws, 2 + 2k] to [draws]."""

    def survival(place: int) -> Statistic:
        return lambda sums: sums[:, 2 + k + place] / np.maximum(1.0, sums[:, 2 + place])

    return {
        "acceptance": lambda sums: sums[:, 2 + k :].sum(1) / np.maximum(1.0, sums[:, 2 : 2 + k].sum(1)),
        "tokens_per_round": lambda sums: sums[:, 0] / np.maximum(1.0, sums[:, 1]),
        **{f"S{place + 1}": survival(place) for place in range(k)},
    }


def _difference(statistic: Statistic) -> Statistic:
    def of_both(sums: Floats) -> Floats:
        first, second = np.split(sums, 2, axis=1)
        return statistic(second) - statistic(first)

    return of_both


def in_json(gaps: dict[str, Interval]) -> dict[str, Ends]:
    """Differences with the ends of their intervals; shares in points."""
    return {name: gap.scaled(1.0 if name == "tokens_per_round" else 100.0) for name, gap in gaps.items()}
