"""Which drafted tokens are right, by their place in a batch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.acceptance import Acceptance
from flexspec_mq.controller.observation import PLACES, UNTRIED

BATCHES = st.lists(
    st.tuples(st.integers(0, 70), st.integers(1, 64), st.booleans(), st.floats(0, 1000)), max_size=60
)


def play(
    acceptance: Acceptance, chances: list[float], batches: int, seed: int, *, now: float = 0.0
) -> Acceptance:
    """Batches whose i-th token is right with the i-th chance, if all before it are."""
    rng = random.Random(seed)
    for _ in range(batches):
        right = 0
        while right < len(chances) and rng.random() < chances[right]:
            right += 1
        wrong = right < len(chances)
        acceptance.judged([(0, right + wrong)], now, wrong=wrong)
    return acceptance


@given(BATCHES)
def test_it_is_a_probability_for_every_place(batches: list[tuple[int, int, bool, float]]) -> None:
    acceptance, now = Acceptance(), 0.0
    for first, count, wrong, passed in batches:
        now += passed
        acceptance.judged([(first, count)], now, wrong=wrong)
        assert len(acceptance.places) == len(acceptance.known) == PLACES
        assert all(0.0 < share < 1.0 for share in acceptance.places)
        assert all(known >= 0.0 for known in acceptance.known)
    assert sum(acceptance.known) <= sum(count for _, count, _, _ in batches) + 1e-9


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_constant_chance_is_found_at_every_place(chance: float, seed: int) -> None:
    acceptance = play(Acceptance(), [chance] * 4, 300, seed)
    for share, known in list(zip(acceptance.places, acceptance.known, strict=True))[:4]:
        # What a place leans on is as uncertain as itself at worst.
        assert abs(share - chance) < 4.5 * (chance * (1 - chance) / (known + 4)) ** 0.5 + 0.1


def test_places_are_told_apart() -> None:
    acceptance = Acceptance()
    assert (acceptance.places, acceptance.known) == ((UNTRIED,) * PLACES, (0.0,) * PLACES)
    places = play(acceptance, [0.9, 0.6, 0.3, 0.9], 400, 1).places
    assert places[0] == pytest.approx(0.9, abs=0.1)
    assert places[1] == pytest.approx(0.6, abs=0.15)
    assert places[2] < places[1] < places[0]
    assert acceptance.known[4:] == (0.0,) * (PLACES - 4)
    assert len(set(places[4:])) == 1, "a place without tries is as all are together"


def test_the_last_place_stands_for_all_that_follow() -> None:
    acceptance = Acceptance()
    acceptance.judged([(PLACES - 1, 10)], 0.0, wrong=False)
    assert acceptance.known == (*(0.0,) * (PLACES - 1), 10.0)
    acceptance.judged([(60, 4)], 0.0, wrong=True)
    assert acceptance.known[-1] == pytest.approx(10.0 * 0.98 + 4.0)


def test_what_is_known_fades_in_silence() -> None:
    acceptance = play(Acceptance(), [0.95] * 4, 200, 1)
    acceptance.judged([(0, 1)], 10_000.0, wrong=True)
    assert sum(acceptance.known) == pytest.approx(1.0, abs=1e-3)
    assert acceptance.places[0] < 0.6
