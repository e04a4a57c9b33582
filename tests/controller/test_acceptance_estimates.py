"""Which drafted tokens are right, by their place in a batch, and a worker as a node sees it."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.acceptance import Acceptance
from flexspec_mq.controller.estimators.worker import Expectile, QueueingDelay, WorkerDrafts
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


def test_batches_get_shorter_with_what_is_put_off_again_and_again_and_grow_without() -> None:
    worker = WorkerDrafts()
    seen = [worker.granted]
    for granted in (0, 0, 0, 0, None, None, *(None,) * 8):
        worker.update(0, granted)
        seen.append(worker.granted)
    assert seen[:7] == [None, 4, 2, 1, 1, 2, 2]
    assert seen[-1] is None


def test_what_a_worker_said_is_known_to_the_next_session() -> None:
    node = Controller()
    assert node.worker(None, 0.0).drafts.per_verdict == 0.0
    node.worker("w", 0.0).drafts.update(8, None)
    assert node.worker("w", 1.0).drafts.per_verdict == 2.0
    assert node.worker(None, 1.0).drafts.per_verdict == 2.0
    assert node.worker("other", 1.0).drafts.per_verdict == 0.0
    assert node.worker("w", 10_000.0).drafts.per_verdict == 0.0


def expectiles(samples: list[float]) -> list[float]:
    low, values = Expectile(), []
    for sample in samples:
        low.update(sample)
        assert low.value is not None
        values.append(low.value)
    return values


@given(st.floats(0.001, 10.0), st.floats(0.001, 10.0))
def test_an_expectile_goes_where_a_step_leads(before: float, now: float) -> None:
    assert expectiles([before] * 5 + [now] * 60)[-1] == pytest.approx(now, rel=0.05, abs=0.03 * before)


@given(st.integers(0, 2**32))
def test_a_few_forwards_that_do_more_count_little(seed: int) -> None:
    """A fifth takes four times as long, as one that reads a piece of a prompt."""
    rng = random.Random(seed)
    samples = [0.12 if rng.random() < 0.2 else 0.03 for _ in range(200)]
    assert fmean(expectiles(samples)[20:]) < fmean(samples)


def test_the_wait_for_others_is_learned_and_fades_while_the_worker_does_not_wait() -> None:
    delay = QueueingDelay()
    for queued in (0.0, 0.0, 0.05, 0.0):
        delay.update(queued)
    assert delay.seconds == 0.0, "one batch that waits once is not taken for others"
    for _ in range(20):
        delay.update(0.05)
    learned = delay.seconds
    assert learned == pytest.approx(0.05, rel=0.05)
    for _ in range(100):
        delay.fade()
    assert 0.0 < delay.seconds < 0.5 * learned
