"""The figures that price the coupling are right: acceptances, the rejection sampler, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.figures import bootstrap
from lab.bench.traditional.rejection import draw, probabilities, verify
from lab.benchmarks.exact.dice import Dice, distribution
from lab.benchmarks.exact.draws import chi_squared
from lab.benchmarks.parts.rounds import Tally
from lab.benchmarks.pricing import gaps
from lab.benchmarks.pricing.overlap import (
    coupling_acceptance,
    coupling_bound,
    rejection_acceptance,
)

Floats = npt.NDArray[np.float64]
UNLIKELY = 1e-6
"""A test over hundreds of examples fails by chance less than once in thousands of runs."""


@st.composite
def distributions(draw_: st.DrawFn, *, count: int, most: int = 12) -> list[Floats]:
    """Of one size, with zeros and with ties."""
    size = draw_(st.integers(2, most))
    weight = st.one_of(st.just(0.0), st.sampled_from([1.0, 2.0]), st.floats(1e-6, 10.0))
    found = []
    for _ in range(count):
        weights = np.array(draw_(st.lists(weight, min_size=size, max_size=size)))
        if not weights.any():
            weights[draw_(st.integers(0, size - 1))] = 1.0
        found.append(weights / weights.sum())
    return found


def by_definition(p: Floats, q: Floats) -> float:
    total = 0.0
    for i in range(len(p)):
        if p[i] > 0 and q[i] > 0:
            total += 1.0 / sum(max(p[j] / p[i], q[j] / q[i]) for j in range(len(p)))
    return total


@given(distributions(count=2))
def test_coupling_acceptance_by_sorting_is_its_definition(both: list[Floats]) -> None:
    p, q = both
    found = coupling_acceptance(p, q)
    assert found == pytest.approx(by_definition(p, q), rel=1e-9, abs=1e-12)
    assert found == pytest.approx(coupling_acceptance(q, p), rel=1e-9, abs=1e-12)
    assert coupling_bound(p, q) - 1e-9 <= found <= rejection_acceptance(p, q) + 1e-9
    assert coupling_acceptance(p, p) == pytest.approx(1.0)
    distance = np.abs(p - q).sum() / 2
    assert rejection_acceptance(p, q) == pytest.approx(1 - distance)
    assert coupling_bound(p, q) == pytest.approx((1 - distance) / (1 + distance))


@pytest.mark.parametrize(
    "params",
    [SamplingParams(0.7), SamplingParams(1.0), SamplingParams(1.0, top_p=0.8), SamplingParams(1.3, top_k=5)],
)
def test_coupling_acceptance_is_what_the_product_accepts(params: SamplingParams) -> None:
    """4,000 seeds on each of three pairs: five standard errors, so a false alarm in 100,000 runs."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        target = rng.normal(0, 2, 40).astype(np.float32)
        draft = (target + rng.normal(0, 1, 40)).astype(np.float32)
        due = coupling_acceptance(probabilities(target, params), probabilities(draft, params))
        assert 0.2 < due < 0.95
        seeds = 4000
        agree = 0
        for seed in range(seeds):
            rolled = SamplingParams(params.temperature, params.top_k, params.top_p, seed)
            agree += choose(target, rolled, 9) == choose(draft, rolled, 9)
        assert abs(agree / seeds - due) < 5 * math.sqrt(due * (1 - due) / seeds)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.0, 0, 0.9), (1.5, 7, 0.8)])
def test_probabilities_are_those_of_the_second_writing(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, 3, 500).astype(np.float32)
    found = probabilities(logits, SamplingParams(temperature, top_k, top_p))
    np.testing.assert_allclose(found, distribution(logits, Dice(temperature, top_k, top_p, 0)), rtol=1e-9)
    assert found.sum() == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(distributions(count=1, most=6), st.integers(0, 2**32))
def test_draws_follow_their_weights(one: list[Floats], seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.bincount([draw(3.0 * one[0], rng) for _ in range(2000)], minlength=len(one[0]))
    assert chi_squared(counts.astype(np.float64), 2000 * one[0])[0] > UNLIKELY


def by_rejection(first: list[Floats], second: list[Floats], texts: int, seed: int) -> Floats:
    """How often each pair of tokens is written.

    Both models know two positions; `first` and `second` are the target's and the draft's: the first token's
    distribution, then the second's behind each first token.
    """
    rng = np.random.default_rng(seed)
    size = len(first[0])
    counts = np.zeros((size, size))
    for _ in range(texts):
        guess = draw(second[0], rng)
        behind = draw(second[1 + guess], rng)
        # What follows the second token does not matter here.
        p = [first[0], first[1 + guess], first[0]]
        decided = list(verify(p, [second[0], second[1 + guess]], [guess, behind], (), rng))
        if len(decided) == 1:  # rejected: the next round decides the second token
            guess = draw(second[1 + decided[0]], rng)
            p = [first[1 + decided[0]], first[0]]
            decided += verify(p, [second[1 + decided[0]]], [guess], (), rng)
        counts[decided[0], decided[1]] += 1
    return counts


@st.composite
def two_models(draw_: st.DrawFn) -> tuple[list[Floats], list[Floats]]:
    size = draw_(st.integers(2, 4))
    weights = st.lists(st.floats(0.02, 1.0), min_size=size, max_size=size)
    tables = [np.array(draw_(weights)) for _ in range(2 * (size + 1))]
    tables = [table / table.sum() for table in tables]
    return tables[: size + 1], tables[size + 1 :]


@settings(max_examples=25, deadline=None)
@given(two_models(), st.integers(0, 2**32))
def test_rejection_sampling_writes_the_targets_distribution(
    models: tuple[list[Floats], list[Floats]], seed: int
) -> None:
    target, draft = models
    texts = 3000
    due = texts * target[0][:, None] * np.stack(target[1:])
    counts = by_rejection(target, draft, texts, seed)
    assert chi_squared(counts.ravel(), due.ravel())[0] > UNLIKELY


def test_the_check_on_rejection_sampling_can_fail() -> None:
    """Drawing the correction from p instead of the residual is the classic bias: the same test sees it."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
    rng = np.random.default_rng(0)

    def biased() -> int:
        guess = draw(q, rng)
        return guess if rng.random() * q[guess] < p[guess] else draw(p, rng)

    counts = np.bincount([biased() for _ in range(3000)], minlength=3).astype(np.float64)
    assert chi_squared(counts, 3000 * p)[0] < UNLIKELY
    fair = [verify([p, p], [q], [draw(q, rng)], (), rng)[0] for _ in range(3000)]
    assert chi_squared(np.bincount(fair, minlength=3).astype(np.float64), 3000 * p)[0] > UNLIKELY


def test_rejection_sampling_accepts_as_often_as_it_should() -> None:
    rng = np.random.default_rng(7)
    p, q = (rng.dirichlet(np.full(8, 0.6)) for _ in range(2))
    due, rounds = rejection_acceptance(p, q), 8000
    accepted = 0
    for _ in range(rounds):
        guess = draw(q, rng)
        accepted += verify([p, p], [q], [guess], (), rng)[0] == guess
    # What replaces a rejected guess never equals it.
    assert abs(accepted / rounds - due) < 5 * math.sqrt(due * (1 - due) / rounds)


def test_an_accepted_end_of_text_is_the_last_token() -> None:
    sure = np.array([0.0, 1.0, 0.0])
    rng = np.random.default_rng(0)
    assert verify([sure] * 3, [sure] * 2, [1, 1], (1,), rng) == (1,)
    assert verify([sure] * 3, [sure] * 2, [1, 1], (), rng) == (1, 1, 1)


def mean(totals: Floats) -> Floats:
    return totals[:, 0] / totals[:, 1]


def test_an_interval_is_as_wide_as_theory_says() -> None:
    rows = np.stack([np.random.default_rng(2).normal(5, 3, 400), np.ones(400)], axis=1)
    found = bootstrap.of_sums(rows, mean, seed=1)
    assert found.value == pytest.approx(rows[:, 0].mean())
    error = rows[:, 0].std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    again = bootstrap.of_units(rows, lambda drawn: drawn[:, :, 0].mean(1), seed=2)
    assert again.high - again.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert not found.holds_zero
    assert bootstrap.of_sums(rows - [5, 0], mean, seed=1).holds_zero


@pytest.mark.parametrize("units", [1, 2, 4])
def test_few_units_have_no_interval(units: int) -> None:
    rows = np.ones((units, 2))
    for found in (
        bootstrap.of_sums(rows, mean, seed=0),
        bootstrap.of_units(rows, lambda drawn: drawn[:, :, 0].mean(1), seed=0),
    ):
        assert found.scaled(100) == [100, None, None]
        assert found.holds_zero
        assert bootstrap.shown(found.scaled(1)) == "+1.00"
    rows = np.ones((bootstrap.FEWEST, 2))
    assert bootstrap.shown(bootstrap.of_sums(rows, mean, seed=0).scaled(1), ".1f") == "1.0 [1.0, 1.0]"


@pytest.mark.parametrize(
    "of",
    [
        lambda: bootstrap.of_sums(np.zeros((0, 2)), mean, seed=0),
        lambda: bootstrap.of_units(np.zeros((0, 2)), mean, seed=0),
    ],
)
def test_nothing_has_no_interval(of: Callable[[], bootstrap.Interval]) -> None:
    with pytest.raises(ValueError, match="needs units"):
        of()


def tally(*rounds: tuple[tuple[int, ...], tuple[int, ...]]) -> Tally:
    made = Tally(texts=1)
    for draft, decided in rounds:
        made.count([DraftToken(token) for token in draft], decided)
    return made


def test_gaps_are_second_less_first() -> None:
    first = [tally(((1, 2), (1, 3))), tally(((1, 2), (9,)))]
    second = [tally(((1, 2), (1, 2, 3))), tally(((1,), (1, 2)))]
    found = gaps.differences(first, second, 2, seed=0)
    assert found["acceptance"].value == pytest.approx(3 / 3 - 1 / 4)
    assert found["tokens_per_round"].value == pytest.approx(5 / 2 - 3 / 2)
    assert found["S1"].value == pytest.approx(1 - 1 / 2)
    assert found["S2"].value == pytest.approx(1 - 0)
    assert gaps.in_json(found)["S1"][0] == pytest.approx(50)
    assert gaps.figures(first)["acceptance"] == 1 / 4
    same = gaps.differences(first, first, 2, seed=0)
    assert all((gap.value, gap.low, gap.high) == (0, -math.inf, math.inf) for gap in same.values())
    same = gaps.differences(3 * first, 3 * first, 2, seed=0)
    assert all((gap.value, gap.low, gap.high) == (0, 0, 0) for gap in same.values())
