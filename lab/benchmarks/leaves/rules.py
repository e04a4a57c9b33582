"""Where a chain has leaves, and what its rounds come to on a text that the target wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.benchmarks.leaves.choices import RANKS, Choices

Select = Callable[[float, float], int]
"""From the probability that the chain is right up to a place, and that of the chain's own token there, to leaves."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which places of a chain have leaves.

    Attributes:
        name: for people.
        select: how many leaves a place has, 0 to 2: the second choice, or the second and the third.
    """

    name: str
    select: Select


def unsure(below: float) -> Rule:
    """A second choice where the chain's own token is right with less than this probability."""
    return Rule(f"second, p < {below:g}", lambda _reach, p: int(p < below))


def worth(least: float) -> Rule:
    """A second choice where the chain ends with this probability at least: right before, and wrong there."""
    return Rule(f"second, worth {least:g}", lambda reach, p: int(reach * (1.0 - p) >= least))


PLAIN = Rule("chain alone", lambda _reach, _p: 0)
SECOND = Rule("second at each", lambda _reach, _p: 1)
RULES = (
    PLAIN,
    SECOND,
    Rule("second and third at each", lambda _reach, _p: 2),
    unsure(0.3),
    unsure(0.5),
    unsure(0.7),
    worth(0.05),
    worth(0.1),
    worth(0.2),
)


@dataclass(slots=True)
class Sums:
    """Rounds, summed.

    Attributes:
        tokens: committed.
        rounds: verifications.
        drafted: tokens of chains.
        leaves: sent.
        by_leaf: rounds that a leaf made longer by a token.
        by_rows: rounds by the rows that the target reads in them: the last committed token, the chain and its leaves.
    """

    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    leaves: int = 0
    by_leaf: int = 0
    by_rows: Counter[int] = field(default_factory=Counter)


def play(text: Choices, k: int, rule: Rule) -> Sums:
    """Count the rounds of one text, one batch in flight.

    A chain commits what is right of it, and one token more, which is the target's. If that is a leaf, the target has
    read it as well and one more is known.

    Args:
        text: what the draft would choose at each place.
        k: tokens of a chain at most.
        rule: where there are leaves.
    """
    sums, position, length = Sums(), 0, len(text.rank)
    while position < length:
        chain = range(position, min(position + k, length))
        counts = _leaves(text.confidence[chain.start : chain.stop], rule)
        wrong = next((place for place in chain if text.rank[place]), None)
        committed = (len(chain) if wrong is None else wrong - position) + 1
        if wrong is not None and text.rank[wrong] <= counts[wrong - position] and wrong + 1 < length:
            committed += 1
            sums.by_leaf += 1
        sums.rounds += 1
        sums.drafted += len(chain)
        sums.leaves += sum(counts)
        sums.by_rows[1 + len(chain) + sum(counts)] += 1
        position += committed
    sums.tokens = length
    return sums


def _leaves(confidences: Sequence[float], rule: Rule) -> list[int]:
    """Of each place of a chain."""
    reach, found = 1.0, []
    for p in confidences:
        found.append(min(rule.select(reach, p), RANKS - 1))
        reach *= p
    return found
