"""Figures of a bench: what answers took and cost, and shares of other strategies', with intervals over questions.

The worst tenth of a strategy are the slowest tenth of its own answers, rounded up. Its figure is their mean, and as
a share of another's, the mean of the one's worst tenth over that of the other's: they may be other questions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.bench import bootstrap
from lab.bench.bootstrap import Ends, Floats
from lab.bench.meter import LinkBytes
from lab.bench.strategies import SERVER, STREAMING
from lab.benchmarks._common import table

BASES = ("traditional", STREAMING, SERVER)
"""Strategies that others are shares of."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer.

    Attributes:
        question: place of the question.
        side: who answered.
        text: text of the answer.
        seconds: from request to end.
        first: seconds to the first piece; None if the text is empty.
        tokens: completed.
        ip_up, ip_down: see `LinkBytes`.
        drafted, accepted, rounds: as the edge node counted them; `drafted` were judged by the target. 0 of another
            server, which counts no such things.
        forced: tokens that a grammar left no choice for.
        energy_j: joules of the device, modelled; None where nobody wanted to know.
    """

    question: int
    side: str
    text: str
    seconds: float
    first: float | None
    tokens: int
    ip_up: int | None
    ip_down: int | None
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    forced: int = 0
    energy_j: float | None = None

    @classmethod
    def of_answer(cls, question: int, side: str, answer: dict[str, Any], carried: LinkBytes) -> Sample:
        """From what `lab.bench.client` said."""
        usage = answer["usage"]
        own = usage.get("flexspec", {})
        counted = {
            name: own[name] for name in ("drafted", "accepted", "rounds", "forced", "energy_j") if name in own
        }
        took = answer["text"], answer["seconds"], answer["first"], usage["completion_tokens"]
        return cls(question, side, *took, *carried, **counted)


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that did not come, or only a part of it. It is in no figure but their count.

    Attributes:
        question: place of the question.
        side: who was asked.
        reason: reason of the failure.
    """

    question: int
    side: str
    reason: str


def differing(samples: Sequence[Sample], apart: Collection[str] = ()) -> list[int]:
    """Questions that not all sides answered with the same text.

    Args:
        samples: samples of all sides.
        apart: sides whose texts are others and are not looked at.
    """
    texts: dict[int, set[str]] = {}
    for sample in samples:
        if sample.side not in apart:
            texts.setdefault(sample.question, set()).add(sample.text)
    return [question for question, found in texts.items() if len(found) > 1]


Adds = Callable[[Sample], tuple[float, float] | None]
"""Function from an answer to what it adds to the two sums of a ratio; None if it is not known."""


def _seconds(one: Sample) -> tuple[float, float]:
    return one.seconds, 1.0


def _energy(one: Sample) -> tuple[float, float] | None:
    return None if one.energy_j is None else (100.0 * one.energy_j, float(one.tokens))


def _bytes(one: Sample) -> tuple[float, float] | None:
    return None if one.ip_up is None or one.ip_down is None else (float(one.ip_up + one.ip_down), 1.0)


MEANS: Mapping[str, Adds] = {"mean_s": _seconds, "ip_bytes": _bytes, "energy_j_per_100": _energy}
"""Figures with an interval, and as shares of `BASES`."""


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
            **_figures(found),
            **{mean: _interval(found, adds, seed) for mean, adds in MEANS.items()},
            **{
                f"of_{base}": shares
                for base in BASES
                if base != name and (shares := _shares(found, answers.get(base, ()), seed))
            },
            "own_text": name in apart,
        }
        for name, found in answers.items()
        if found
    }


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    first = [sample.first for sample in samples if sample.first is not None]
    tokens, drafted, accepted, rounds, forced = (
        sum(getattr(sample, name) for sample in samples)
        for name in ("tokens", "drafted", "accepted", "rounds", "forced")
    )
    return {
        "answers": len(samples),
        "tokens": tokens,
        "worst_tenth_s": float(_worst_tenth(np.array([sample.seconds for sample in samples]))),
        "median_first_s": float(np.median(first)) if first else None,
        "tokens_per_round": tokens / rounds if rounds else None,
        "acceptance": accepted / drafted if drafted else None,
        "forced": forced / tokens if tokens else None,
    }


def _interval(found: Sequence[Sample], adds: Adds, seed: int) -> Ends | None:
    """A ratio of sums over answers with its interval; None where it is not known of all of them."""
    sums = _sums(found, adds)
    if sums is None or not sums[:, 1].sum():
        return None
    return bootstrap.of_sums(sums, _ratio, seed=seed)


def _shares(one: Sequence[Sample], other: Sequence[Sample], seed: int) -> dict[str, Ends | None]:
    """Figures as shares of another strategy's, paired by question; empty where they have no question in common."""
    both = {sample.question for sample in one} & {sample.question for sample in other}
    if not both:
        return {}
    ours, theirs = (
        sorted((sample for sample in side if sample.question in both), key=lambda sample: sample.question)
        for side in (one, other)
    )
    seconds = np.array([(a.seconds, b.seconds) for a, b in zip(ours, theirs, strict=True)])
    found: dict[str, Ends | None] = {
        "worst_tenth": bootstrap.of_units(
            seconds, lambda drawn: _worst_tenth(drawn[..., 0]) / _worst_tenth(drawn[..., 1]), seed=seed
        )
    }
    for name, adds in MEANS.items():
        mine, base = _sums(ours, adds), _sums(theirs, adds)
        found[name] = None
        if mine is not None and base is not None and mine[:, 1].sum() and base.all(axis=None):
            sums = np.hstack([mine, base])
            found[name] = bootstrap.of_sums(
                sums, lambda drawn: _ratio(drawn[..., :2]) / _ratio(drawn[..., 2:]), seed=seed
            )
    return found


def _worst_tenth(rows: Floats) -> Floats:
    """Mean of the largest tenth along the last axis."""
    most = math.ceil(rows.shape[-1] / 10)
    worst: Floats = np.sort(rows, axis=-1)[..., -most:].mean(axis=-1)
    return worst


def _sums(found: Sequence[Sample], adds: Adds) -> Floats | None:
    known = [pair for sample in found if (pair := adds(sample)) is not None]
    return np.array(known, dtype=np.float64) if len(known) == len(found) else None


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = sums[..., 0] / sums[..., 1]
    return quotient


_FIGURES: Mapping[str, tuple[str, str]] = {
    "s an answer": ("mean_s", ".2f"),
    "worst tenth": ("worst_tenth_s", ".2f"),
    "first token, s": ("median_first_s", ".2f"),
    "accepted": ("acceptance", ".0%"),
    "tokens a round": ("tokens_per_round", ".2f"),
    "IP bytes": ("ip_bytes", ",.0f"),
    "J for 100 tokens": ("energy_j_per_100", ".1f"),
}
_SHARES: Mapping[str, str] = {
    "seconds": "mean_s",
    "worst tenth": "worst_tenth",
    "IP bytes": "ip_bytes",
    "J a token": "energy_j_per_100",
}


def tables(channel: Mapping[str, Any]) -> str:
    """All that is told of a channel."""
    strategies: Mapping[str, Any] = channel["strategies"]
    failed = Counter(one["side"] for one in channel["failed"])
    rows = []
    for name in dict.fromkeys((*strategies, *failed)):
        its = strategies.get(name, {})
        cells = (shown(its.get(key), form) for key, form in _FIGURES.values())
        rows.append([name + " *" * its.get("own_text", False), its.get("answers", 0), failed[name], *cells])
    parts = [f"# {channel['title']}", table(["", "answers", "failed", *_FIGURES], rows)]
    for base in BASES:
        shares = [
            [name, *(shown(one[f"of_{base}"][key], ".3g") for key in _SHARES.values())]
            for name, one in strategies.items()
            if f"of_{base}" in one
        ]
        if shares:
            parts.append(table([f"shares of {base}", *_SHARES], shares))
    if any(one["own_text"] for one in strategies.values()):
        parts.append("* writes a text of its own, which is not compared.")
    parts += [f"failed: {one['side']}, question {one['name']}: {one['reason']}" for one in channel["failed"]]
    if channel["differ"]:
        parts.append(f"TEXTS DIFFER at questions {', '.join(channel['differ'])}.")
    return "\n\n".join(parts) + "\n"


def shown(value: float | Sequence[float | None] | None, form: str) -> str:
    """A figure, with its interval where it has one."""
    if value is None:
        return "-"
    return bootstrap.shown([value, None, None] if isinstance(value, float) else value, form)
