"""A worker as a node sees it: its forwards, the wait there for others, and what its verdicts say of drafts."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.worker import Expectile, QueueingDelay, WorkerDrafts


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
