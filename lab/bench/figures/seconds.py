"""What answers took and cost, side by side: means, medians, worst tenths, and ratios with intervals over questions.

The worst tenth of a side are the slowest tenth of its own answers, rounded up. What it takes is their
mean, and as a share of another side's, the mean of the one's worst tenth over that of the other's: they may be other
questions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Ends, Floats
from lab.bench.testbed.meter import Costs
from schemas.plan import LimitReport

RATIOS = ("total", "median", "worst_tenth")
"""What `ratios` tells, each with its interval."""


_NOT_COUNTED: Mapping[str, Any] = {
    **dict.fromkeys(("proposed", "drafted", "accepted", "rounds"), 0),
    **dict.fromkeys(("bytes_up", "bytes_down")),
}
"""Of an answer by somebody who is no edge node."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer.

    Attributes:
        question: its place.
        category: the question's.
        side: who answered.
        text: what it said.
        seconds: from request to end.
        first: seconds to the first piece; None if the text is empty.
        tokens: completed.
        proposed, drafted, accepted, rounds: as the edge node counted them; `drafted` were judged by the target. 0 of
            another server, which counts no such things.
        bytes_up, bytes_down: payload of messages; None where there are none.
        costs: beside.
        energy_j: joules of the device, modelled; None where nobody wanted to know.
        limits: how the node said that it keeps those that it was given.
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
    limits: tuple[LimitReport, ...] = ()

    @classmethod
    def of_answer(
        cls, question: int, category: str, side: str, answer: dict[str, Any], costs: Costs
    ) -> Sample:
        """From what `asking` said."""
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
            msgspec.convert(own.get("limits", ()), tuple[LimitReport, ...]),
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that did not come, or only a part of it. It is in no figure but their count.

    Attributes:
        question: its place.
        side: who was asked.
        reason: what went wrong.
        seconds: from request to failure.
    """

    question: int
    side: str
    reason: str
    seconds: float


def figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """One side's answers; bytes, drafted tokens and wasted rows are means of an answer."""
    seconds = np.array([sample.seconds for sample in samples])
    first = [sample.first for sample in samples if sample.first is not None]
    tokens = sum(sample.tokens for sample in samples)
    drafted, rounds = (sum(getattr(sample, name) for sample in samples) for name in ("drafted", "rounds"))
    return {
        "answers": len(samples),
        "tokens": tokens,
        "median_s": float(np.median(seconds)),
        "mean_s": float(seconds.mean()),
        "worst_tenth_s": float(_worst_tenth(seconds)),
        "median_first_s": float(np.median(first)) if first else None,
        "tokens_per_s": tokens / float(seconds.sum()),
        "tokens_per_round": tokens / rounds if rounds else None,
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
        one: one answer to each question.
        other: likewise.
        seed: of the bootstrap, which draws questions.

    Raises:
        ValueError: they did not answer the same questions.
    """
    ours = {sample.question: sample.seconds for sample in one}
    theirs = {sample.question: sample.seconds for sample in other}
    if set(ours) != set(theirs) or len(ours) != len(one) or len(theirs) != len(other):
        raise ValueError("not one answer of each side to each question")
    pairs = np.array([[ours[question], theirs[question]] for question in sorted(ours)])
    total = bootstrap.of_sums(pairs, lambda sums: sums[..., 0] / sums[..., 1], seed=seed)
    return {
        "total": total,
        "median": bootstrap.of_units(pairs, _of_medians, seed=seed),
        "worst_tenth": bootstrap.of_units(pairs, _of_worst_tenths, seed=seed),
        "verdict": verdict(total),
    }


def _of_medians(drawn: Floats) -> Floats:
    middle: Floats = np.median(drawn, axis=-2)
    return middle[..., 0] / middle[..., 1]


def _of_worst_tenths(drawn: Floats) -> Floats:
    return _worst_tenth(drawn[..., 0]) / _worst_tenth(drawn[..., 1])


def _worst_tenth(rows: Floats) -> Floats:
    """Mean of the largest tenth along the last axis."""
    most = math.ceil(rows.shape[-1] / 10)
    worst: Floats = np.sort(rows, axis=-1)[..., -most:].mean(axis=-1)
    return worst


def verdict(ratio: Ends) -> str:
    """Whether seconds as a share of another's are a win, a loss, or neither for sure."""
    _, low, high = ratio
    if high is not None and high < 1.0:
        return "win"
    return "loss" if low is not None and low > 1.0 else "even"


def differing(samples: Sequence[Sample], apart: Collection[str] = ()) -> list[int]:
    """Questions that not all sides answered with the same text.

    Args:
        samples: of all sides.
        apart: sides whose texts are others and are not looked at.
    """
    texts: dict[int, set[str]] = {}
    for sample in samples:
        if sample.side in apart:
            continue
        texts.setdefault(sample.question, set()).add(sample.text)
    return [question for question, found in texts.items() if len(found) > 1]
