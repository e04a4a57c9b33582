"""Figures of a bench: what answers took and cost, and shares of other strategies', with intervals over questions.

The worst tenth of a strategy are the slowest tenth of its own answers, rounded up. Its figure is their mean, and as
a share of another's, the mean of the one's worst tenth over that of the other's: they may be other questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.bench import bootstrap
from lab.bench.bootstrap import Ends, Floats
from lab.bench.meter import Costs
from lab.bench.strategies import STREAMING

BASES = ("traditional", STREAMING)
"""Strategies that others are shares of."""
_NOT_COUNTED: Mapping[str, Any] = {
    **dict.fromkeys(("proposed", "drafted", "accepted", "rounds", "forced"), 0),
    **dict.fromkeys(("bytes_up", "bytes_down")),
}
"""Counts of an answer by somebody who is no edge node."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer.

    Attributes:
        question: place of the question.
        category: the question's.
        side: who answered.
        text: text of the answer.
        seconds: from request to end.
        first: seconds to the first piece; None if the text is empty.
        tokens: completed.
        proposed, drafted, accepted, rounds: as the edge node counted them; `drafted` were judged by the target. 0 of
            another server, which counts no such things.
        bytes_up, bytes_down: payload of messages; None where there are none.
        costs: bytes, processor time and forwards meanwhile.
        energy_j: joules of the device, modelled; None where nobody wanted to know.
        forced: tokens that a grammar left no choice for.
    """

    question: int
    category: str
    side: str
    text: str
    seconds: float
    first: float | None
    tokens: int
    proposed: int
    drafted: int
    accepted: int
    rounds: int
    bytes_up: int | None
    bytes_down: int | None
    costs: Costs
    energy_j: float | None = None
    forced: int = 0

    @classmethod
    def of_answer(
        cls, question: int, category: str, side: str, answer: dict[str, Any], costs: Costs
    ) -> Sample:
        """From what `lab.bench.client` said."""
        usage = answer["usage"]
        own = usage.get("flexspec", _NOT_COUNTED)
        return cls(
            question,
            category,
            side,
            answer["text"],
            answer["seconds"],
            answer["first"],
            usage["completion_tokens"],
            own["proposed"],
            own["drafted"],
            own["accepted"],
            own["rounds"],
            own["bytes_up"],
            own["bytes_down"],
            costs,
            own.get("energy_j"),
            own.get("forced", 0),
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that did not come, or only a part of it. It is in no figure but their count.

    Attributes:
        question: place of the question.
        side: who was asked.
        reason: reason of the failure.
        seconds: from request to failure.
    """

    question: int
    side: str
    reason: str
    seconds: float


def figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of a strategy's answers; bytes and drafted tokens are means of an answer."""
    seconds = np.array([sample.seconds for sample in samples])
    first = [sample.first for sample in samples if sample.first is not None]
    tokens = sum(sample.tokens for sample in samples)
    drafted, rounds = (sum(getattr(sample, name) for sample in samples) for name in ("drafted", "rounds"))
    return {
        "answers": len(samples),
        "tokens": tokens,
        "mean_s": float(seconds.mean()),
        "worst_tenth_s": float(_worst_tenth(seconds)),
        "median_first_s": float(np.median(first)) if first else None,
        "tokens_per_s": tokens / float(seconds.sum()),
        "tokens_per_round": tokens / rounds if rounds else None,
        "forced": sum(sample.forced for sample in samples) / tokens if tokens else None,
        "acceptance": sum(sample.accepted for sample in samples) / drafted if drafted else None,
        "bytes_up": _mean([sample.bytes_up for sample in samples]),
        "bytes_down": _mean([sample.bytes_down for sample in samples]),
        "proposed": sum(sample.proposed for sample in samples) / len(samples),
        **{name: _mean([getattr(sample.costs, name) for sample in samples]) for name in Costs.__slots__},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def paired(one: Sequence[Sample], other: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Answers of two sides to the questions that both have answered."""
    both = {sample.question for sample in one} & {sample.question for sample in other}
    ours, theirs = ([sample for sample in side if sample.question in both] for side in (one, other))
    return ours, theirs


def ratios(one: Sequence[Sample], other: Sequence[Sample], *, seed: int) -> dict[str, Any]:
    """Seconds of one side as shares of another's, over the same questions.

    Args:
        one: answers of one strategy, one to each question.
        other: likewise.
        seed: seed of the bootstrap, which draws questions.

    Raises:
        ValueError: they did not answer the same questions.
    """
    ours = {sample.question: sample.seconds for sample in one}
    theirs = {sample.question: sample.seconds for sample in other}
    if set(ours) != set(theirs) or len(ours) != len(one) or len(theirs) != len(other):
        raise ValueError("not one answer of each side to each question")
    pairs = np.array([[ours[question], theirs[question]] for question in sorted(ours)])
    return {
        "total": bootstrap.of_sums(pairs, lambda sums: sums[..., 0] / sums[..., 1], seed=seed),
        "worst_tenth": bootstrap.of_units(pairs, _of_worst_tenths, seed=seed),
    }


def _of_worst_tenths(drawn: Floats) -> Floats:
    return _worst_tenth(drawn[..., 0]) / _worst_tenth(drawn[..., 1])


def _worst_tenth(rows: Floats) -> Floats:
    """Mean of the largest tenth along the last axis."""
    most = math.ceil(rows.shape[-1] / 10)
    worst: Floats = np.sort(rows, axis=-1)[..., -most:].mean(axis=-1)
    return worst


def differing(samples: Sequence[Sample], apart: Collection[str] = ()) -> list[int]:
    """Questions that not all sides answered with the same text.

    Args:
        samples: samples of all sides.
        apart: sides whose texts are others and are not looked at.
    """
    texts: dict[int, set[str]] = {}
    for sample in samples:
        if sample.side in apart:
            continue
        texts.setdefault(sample.question, set()).add(sample.text)
    return [question for question, found in texts.items() if len(found) > 1]


Adds = Callable[[Sample], tuple[float, float] | None]
"""Function from an answer to what it adds to the two sums of a ratio; None if it is not known."""


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
        answers: answers of each strategy, to the same questions but for those that failed.
        seed: seed of the bootstrap, which draws questions with all that belongs to them.
        apart: strategies that write texts of their own.
    """
    return {
        name: {
            **figures(found),
            **_per_token(found),
            **{mean: interval(found, adds, seed=seed) for mean, adds in MEANS.items()},
            **{
                f"of_{base}": _shares(*pair, seed=seed)
                for base in BASES
                if base != name and any(pair := paired(found, answers.get(base, ())))
            },
            "own_text": name in apart,
        }
        for name, found in answers.items()
        if found
    }


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
        **ratios(one, other, seed=seed),
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
