"""Rounds of all texts with one rule, drawn anew by the bootstrap, and what rules cost beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Floats, Interval
from lab.benchmarks.leaves.choices import RANKS, Choices
from lab.benchmarks.leaves.rules import Rule, play


@dataclass(frozen=True, slots=True)
class Rates:
    """What rounds come to on average, by draw and length of the chain.

    Each of shape [draws, lengths], but for `by_rows`.

    The first draw is of each text once: the value. The others are the bootstrap's.

    Attributes:
        tokens: of a round.
        drafted: of a round.
        leaves: of a round.
        by_leaf: share of the rounds that a leaf made longer.
        by_rows: shares of the rounds with 0, 1, 2, … rows, [draws, lengths, rows].
    """

    tokens: Floats
    drafted: Floats
    leaves: Floats
    by_leaf: Floats
    by_rows: Floats

    @property
    def rows(self) -> Floats:
        """Of a round: the last committed token, the chain and its leaves."""
        return 1.0 + self.drafted + self.leaves

    def at(self, place: int) -> Rates:
        """With chains of one length only."""
        return Rates(*(getattr(self, field.name)[:, place : place + 1] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Played:
    """All texts with one rule.

    Attributes:
        rule: of the leaves.
        lengths: of the chains, ascending; 0 is no draft.
        rates: of their rounds.
        units: texts.
    """

    rule: Rule
    lengths: tuple[int, ...]
    rates: Rates
    units: int

    def only(self, k: int) -> Played:
        """With chains of one length."""
        return Played(self.rule, (k,), self.rates.at(self.lengths.index(k)), self.units)


def play_all(
    texts: Sequence[Choices], lengths: Sequence[int], rules: Sequence[Rule], seed: int
) -> list[Played]:
    """Play all texts with all rules; every rule has the same draws of texts.

    Args:
        texts: of one temperature, at least one.
        lengths: of the chains.
        rules: where leaves are.
        seed: of the bootstrap.
    """
    rng, units = np.random.default_rng(seed), len(texts)
    drawn = rng.multinomial(units, np.full(units, 1.0 / units), size=bootstrap.DRAWS)
    times = np.vstack((np.ones((1, units)), drawn.astype(np.float64)))
    most = 1 + RANKS * max(lengths)
    found = []
    for rule in rules:
        rows = np.array([[_sums(text, k, rule, most) for k in lengths] for text in texts], dtype=np.float64)
        sums = (times @ rows.reshape(units, -1)).reshape(len(times), *rows.shape[1:])
        tokens, rounds, drafted, leaves, by_leaf = np.moveaxis(sums[..., :_SCALARS], 2, 0)
        by_rows = sums[..., _SCALARS:] / rounds[..., None]
        rates = Rates(tokens / rounds, drafted / rounds, leaves / rounds, by_leaf / rounds, by_rows)
        found.append(Played(rule, tuple(lengths), rates, units))
    return found


_SCALARS = 5


def _sums(text: Choices, k: int, rule: Rule, most: int) -> list[int]:
    """Of one text: `_SCALARS` sums, then rounds by their rows from 0 to `most`."""
    one = play(text, k, rule)
    counts = [one.by_rows[rows] for rows in range(most + 1)]
    return [one.tokens, one.rounds, one.drafted, one.leaves, one.by_leaf, *counts]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A cost with leaves over the same without, each with the length that is best in its draw.

    Attributes:
        interval: of the ratio; 1 where neither gives anything.
        plain_k, leaf_k: the lengths that are best of all texts.
        plain: cost without leaves.
    """

    interval: Interval
    plain_k: int
    leaf_k: int
    plain: float

    def in_json(self) -> dict[str, object]:
        """As the JSON line gives it."""
        return {
            "ratio": self.interval.scaled(1.0),
            "plain_k": self.plain_k,
            "leaf_k": self.leaf_k,
            "plain": self.plain,
        }


def ratio(plain: Played, leafy: Played, without: Floats, having: Floats, *, least: bool) -> Ratio:
    """Compare a cost.

    Args:
        plain: chains alone.
        leafy: the same texts with leaves.
        without: what the first costs, [draws, lengths].
        having: what the second does, likewise.
        least: whether the least is best; else the most.
    """
    best, place = (np.min, np.argmin) if least else (np.max, np.argmax)
    one, other = best(without, axis=1), best(having, axis=1)
    shares = np.where(one > 0.0, other / np.where(one > 0.0, one, 1.0), 1.0)
    low, high = -np.inf, np.inf
    if plain.units >= bootstrap.FEWEST:
        outside = (1.0 - bootstrap.LEVEL) / 2.0
        low, high = np.quantile(shares[1:], [outside, 1.0 - outside])
    interval = Interval(float(shares[0]), float(low), float(high))
    return Ratio(
        interval,
        plain.lengths[int(place(without[0]))],
        leafy.lengths[int(place(having[0]))],
        float(one[0]),
    )
