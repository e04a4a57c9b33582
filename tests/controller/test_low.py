"""A low expectile: between the least and the mean, and where the changes lead."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.low import Low


def after(samples: list[float]) -> float:
    low = Low()
    for sample in samples:
        low.saw(sample)
    assert low.value is not None
    return low.value


def test_nothing_is_known_before_a_sample() -> None:
    assert Low().value is None


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=50))
def test_it_lies_within_the_samples(samples: list[float]) -> None:
    assert min(samples) - 1e-9 <= after(samples) <= max(samples) + 1e-9


@given(st.floats(0.001, 10.0), st.floats(0.001, 10.0))
def test_it_goes_where_a_step_leads(before: float, now: float) -> None:
    assert after([before] * 5 + [now] * 60) == pytest.approx(now, rel=0.05, abs=0.03 * before)


@given(st.integers(0, 2**32))
def test_a_few_forwards_that_do_more_count_little(seed: int) -> None:
    """One in five takes four times as long, as one that reads a piece of a prompt."""
    rng = random.Random(seed)
    samples = [0.12 if rng.random() < 0.2 else 0.03 for _ in range(200)]
    values, low = [], Low()
    for sample in samples:
        low.saw(sample)
        values.append(low.value or 0.0)
    assert sum(values[20:]) / len(values[20:]) < sum(samples) / len(samples)
