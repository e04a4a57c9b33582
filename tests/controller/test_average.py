"""The mean of samples that may change."""

import random
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.average import Average

SAMPLES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), min_size=1, max_size=60)
LEVELS = st.floats(0.001, 10.0)


def fed(*samples: float, every: float = 0.1, memory: float = 8.0) -> Average:
    """An average of samples that came at even times, from 0."""
    average = Average(memory=memory)
    for place, sample in enumerate(samples):
        average.update(sample, place * every)
    return average


def noisy(level: float, spread: float, count: int, seed: int) -> list[float]:
    """Normal samples, with a standard deviation of so much of the level."""
    rng = random.Random(seed)
    return [max(0.0, rng.gauss(level, spread * level)) for _ in range(count)]


@given(SAMPLES)
def test_the_mean_lies_among_the_samples_and_the_rest_is_in_range(samples: list[tuple[float, float]]) -> None:
    average, now, values = Average(), 0.0, []
    for sample, passed in samples:
        now += passed
        values.append(sample)
        average.update(sample, now)
        assert average.mean is not None
        assert min(values) - 1e-9 <= average.mean <= max(values) + 1e-9
        assert 0.0 <= average.deviation <= max(values)
        assert 0.0 < average.known <= 8.0
        assert average.error is not None
        assert average.error >= 0.0


def test_the_first_samples_count_alike() -> None:
    assert fed(1.0, 2.0, 3.0, every=0.0).mean == pytest.approx(2.0)
    # The first alone was taken for half of itself off, the second was 1 off, the third 1.5.
    assert fed(1.0, 2.0, 3.0, every=0.0).deviation == pytest.approx(((0.5 + 1.0) / 2 * 2 + 1.5) / 3)


def test_of_noise_the_error_says_how_far_the_mean_is_off() -> None:
    """In 400 series: the squares of the mean's own errors, over the squares of what it says, are about 1."""
    off = told = 0.0
    for seed in range(400):
        average = fed(*noisy(1.0, 0.2, 60, seed), every=0.0)
        assert average.mean is not None
        assert average.error is not None
        off += (average.mean - 1.0) ** 2
        told += average.error**2
    # An exponential average of gain 1/8 rests on 15 samples, where `known` says 8: the error is told for larger.
    assert 0.3 < off / told < 1.3


def test_noise_is_hardly_ever_a_step() -> None:
    steps = sum(fed(*noisy(1.0, 0.2, 500, seed)).steps for seed in range(20))
    assert steps <= 4, "once in thousands of samples"


@given(LEVELS, st.floats(0.0, 0.1), st.floats(2.0, 50.0), st.booleans(), st.integers(0, 1000))
def test_a_step_is_followed_within_five_samples(
    level: float, spread: float, times: float, up: bool, seed: int
) -> None:
    before, after = (level, level * times) if up else (level * times, level)
    average = fed(*noisy(before, spread, 30, seed), *noisy(after, spread, 5, seed + 1))
    assert average.steps >= 1
    assert average.mean == pytest.approx(after, rel=max(0.02, 4 * spread))


def test_a_clear_step_is_found_by_the_third_sample() -> None:
    calm = noisy(1.0, 0.02, 30, 1)
    assert fed(*calm, 2.0, 2.0).steps == 0
    found = fed(*calm, 2.0, 2.0, 2.0)
    assert (found.steps, found.mean, found.known) == (1, 2.0, 3.0)
    assert found.deviation < 0.05, "what a step adds is not what samples differ by"


@given(st.floats(1.5, 100.0), st.integers(0, 100))
def test_a_lone_spike_is_no_step_and_counts_as_one_sample(times: float, seed: int) -> None:
    calm = noisy(1.0, 0.02, 30, seed)
    spiked = fed(*calm, times)
    assert spiked.steps == fed(*calm).steps
    assert spiked.mean == pytest.approx(1.0 + (times - 1.0) / 8, rel=0.05)
    left = (times - 1.0) / 8 * (7 / 8) ** 40
    assert fed(*calm, times, *noisy(1.0, 0.02, 40, seed + 1)).mean == pytest.approx(1.0 + left, abs=0.04)


@given(st.floats(0.0, 1000.0))
def test_what_is_known_fades_in_silence(silence: float) -> None:
    average = Average(fade=30.0)
    for _ in range(50):
        average.update(1.0, 0.0)
    average.update(3.0, silence)
    old = 7.0 * exp(-silence / 30.0)
    assert average.mean == pytest.approx((old * 1.0 + 3.0) / (old + 1.0))
    assert average.known == pytest.approx(old + 1.0)


@given(LEVELS, LEVELS, st.integers(1, 20))
def test_a_step_that_is_known_is_followed_at_once_and_worth_one_sample_more(
    before: float, after: float, count: int
) -> None:
    average = fed(*[before] * count)
    average.stepped(after, 10.0)
    assert (average.mean, average.steps, average.doubtful) == (after, 1, True)
    average.update(after, 10.1)
    assert average.mean == pytest.approx(after)
    assert not average.doubtful


def test_a_step_from_nothing_is_a_sample() -> None:
    average = Average()
    average.stepped(0.5, 0.0)
    assert (average.mean, average.deviation, average.steps) == (0.5, 0.25, 0)
