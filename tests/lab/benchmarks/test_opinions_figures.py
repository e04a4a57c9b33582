"""What the replay of draft and lookup beside each other counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks.opinions import Seen, by_both, by_draft, fitted, log_loss, look, play
from training.draft.rows import make_rows

RIGHT, WRONG = 5, 6


def seen(draft: DraftToken, lookup: DraftToken | None = None, row: int = 0) -> Seen:
    return Seen(row, 0.0, draft, lookup, RIGHT)


def test_weights_are_found_again() -> None:
    rng = np.random.default_rng(0)
    many = []
    for row in range(20_000):
        sure, found = rng.uniform(0.05, 0.95, 2)
        odds = 0.5 + 0.8 * math.log(sure / (1 - sure)) + 0.4 * math.log(found / (1 - found))
        right = rng.random() < 1 / (1 + math.exp(-odds))
        token = RIGHT if right else WRONG
        many.append(seen(DraftToken(token, sure), DraftToken(token, found, "lookup"), row))
    weights, count, share = fitted(many)["agree"]
    assert count == 20_000
    assert 0.4 < share < 0.8
    assert weights == pytest.approx((0.5, 0.8, 0.4), abs=0.08)
    assert fitted(many)["draft, differing"][1:] == (0, 0.0)


def test_where_they_differ_each_is_judged_for_itself() -> None:
    both = seen(DraftToken(WRONG, 0.5), DraftToken(RIGHT, 0.5, "lookup"))
    made = fitted([both] * 10)
    assert made["agree"][1] == 0
    assert made["draft, differing"][1:] == (10, 0.0)
    assert made["lookup, differing"][1:] == (10, 1.0)


def test_losses_and_rounds_are_of_what_was_chosen() -> None:
    answer = [seen(DraftToken(RIGHT, 0.8)), seen(DraftToken(WRONG, 0.8)), seen(DraftToken(RIGHT, 0.2))]
    expected = -(2 * math.log(0.8) + math.log(0.2) - math.log(0.8) + math.log(0.2)) / 3
    assert log_loss(answer, by_draft) == pytest.approx(expected)
    # 0.8 and 0.64 are sent, 0.128 is not; the second is wrong, so the target writes it; the third is not sure enough.
    rounds = play(answer, by_both, 0.5)
    assert (rounds.rounds, rounds.drafted, rounds.accepted, rounds.tokens) == (2, 2, 1, 3)


def test_a_replay_looks_only_behind_and_knows_the_streak() -> None:
    text = make_rows([(1, 2, 3)], [(1, 2, 3, 9)], [0.0])
    theirs = np.full((4, 12), -9.0, dtype=np.float32)
    for place, token in enumerate((1, 2, 3, 9)):
        theirs[place, token] = 9.0
    streaks = []

    def guess(logits: np.ndarray, _params: SamplingParams, position: int, streak: int) -> DraftToken:
        streaks.append((position, streak))
        return DraftToken(int(logits.argmax()), 0.5)

    mine = theirs.copy()
    mine[1] = mine[3]  # names 9 instead of 2
    found = list(look(text, 0, (mine, theirs), guess, 0.0))
    assert streaks == [(3, 0), (4, 1), (5, 0), (6, 1)]
    assert [one.target for one in found] == [1, 2, 3, 9]
    assert [one.lookup and one.lookup.token for one in found] == [None, 2, 3, 1]
