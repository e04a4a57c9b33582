"""What the strategies of one channel come to: figures of each, and shares of others', with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lab.bench.figures import bootstrap, seconds
from lab.bench.figures.bootstrap import Ends, Floats
from lab.bench.figures.seconds import Sample
from lab.bench.strategies import STREAMING
from schemas.plan import LimitReport

BASES = ("traditional", STREAMING)
"""Strategies that others are shares of."""
Adds = Callable[[Sample], tuple[float, float] | None]
"""What an answer adds to the two sums of a ratio; None if it is not known."""


def _seconds(one: Sample) -> tuple[float, float]:
    return one.seconds, 1.0


def _rate(one: Sample) -> tuple[float, float]:
    return float(one.tokens), one.seconds


def _energy(one: Sample) -> tuple[float, float] | None:
    return None if one.energy_j is None else (100.0 * one.energy_j, float(one.tokens))


def _bytes(one: Sample) -> tuple[float, float] | None:
    for up, down in ((one.costs.ip_up, one.costs.ip_down), (one.bytes_up, one.bytes_down)):
        if up is not None and down is not None:
            return float(up + down), 1.0
    return None


MEANS: Mapping[str, Adds] = {
    "mean_s": _seconds,
    "tokens_per_s": _rate,
    "bytes": _bytes,
    "energy_j_per_100": _energy,
}
"""Figures with an interval. Bytes are those of IP, of payload on loopback."""


def summary(
    answers: Mapping[str, Sequence[Sample]], seed: int, apart: Collection[str] = ()
) -> dict[str, Any]:
    """Figures of each strategy that answered something; its shares are over the questions that both answered.

    Args:
        answers: of each strategy, to the same questions but for those that failed.
        seed: of the bootstrap, which draws questions with all that belongs to them.
        apart: strategies that write texts of their own.
    """
    return {
        name: {
            **seconds.figures(found),
            **_per_token(found),
            **{mean: interval(found, adds, seed=seed) for mean, adds in MEANS.items()},
            **{
                f"of_{base}": _shares(*pair, seed=seed)
                for base in BASES
                if base != name and any(pair := seconds.paired(found, answers.get(base, ())))
            },
            "own_text": name in apart,
            "limits": limits(found),
        }
        for name, found in answers.items()
        if found
    }


def limits(found: Sequence[Sample]) -> list[dict[str, Any]]:
    """What a node told of each limit that it was given, over its answers in the order of their questions.

    Returns:
        For each its name, limit and unit, mean and last of the values, and how many answers told each state.
    """
    told: dict[str, list[LimitReport]] = {}
    for sample in sorted(found, key=lambda sample: sample.question):
        for one in sample.limits:
            told.setdefault(one.name, []).append(one)
    return [
        {
            "name": name,
            "limit": reports[-1].limit,
            "unit": reports[-1].unit,
            "mean": float(np.mean(values)) if (values := _values(reports)) else None,
            "last": reports[-1].value,
            "states": dict(Counter(one.state for one in reports)),
        }
        for name, reports in told.items()
    ]


def _values(reports: Sequence[LimitReport]) -> list[float]:
    return [one.value for one in reports if one.value is not None]


def interval(found: Sequence[Sample], adds: Adds, *, seed: int) -> Ends | None:
    """A ratio of sums over answers with its interval; None where it is not known of all of them."""
    sums = _sums(found, adds)
    if sums is None or not sums[:, 1].sum():
        return None
    return bootstrap.of_sums(sums, _ratio, seed=seed)


def share(one: Sequence[Sample], other: Sequence[Sample], adds: Adds, *, seed: int) -> Ends | None:
    """A ratio as a share of another strategy's, paired by question; None where one is not known, or the other 0."""
    ours, theirs = (_sums(sorted(found, key=lambda sample: sample.question), adds) for found in (one, other))
    if ours is None or theirs is None or not ours[:, 1].sum() or not theirs.all(axis=None):
        return None
    return bootstrap.of_sums(
        np.hstack([ours, theirs]), lambda sums: _ratio(sums[..., :2]) / _ratio(sums[..., 2:]), seed=seed
    )


def _shares(one: Sequence[Sample], other: Sequence[Sample], *, seed: int) -> dict[str, Any]:
    return {
        **seconds.ratios(one, other, seed=seed),
        **{name: share(one, other, adds, seed=seed) for name, adds in MEANS.items() if name != "mean_s"},
    }


def _per_token(found: Sequence[Sample]) -> dict[str, float | None]:
    tokens = sum(sample.tokens for sample in found)
    spent = {name: [getattr(sample.costs, name) for sample in found] for name in ("forwards", "worker_s")}
    return {
        f"{name}_per_token": sum(each) / tokens if tokens and None not in each else None
        for name, each in spent.items()
    }


def _sums(found: Sequence[Sample], adds: Adds) -> Floats | None:
    pairs = [adds(sample) for sample in found]
    known = [pair for pair in pairs if pair is not None]
    return np.array(known, dtype=np.float64) if len(known) == len(pairs) else None


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = sums[..., 0] / sums[..., 1]
    return quotient
