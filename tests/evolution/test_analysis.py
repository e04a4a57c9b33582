"""The rule for canaries, on simulated answers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.analysis import DEFAULT_RULE, CanaryRule, Decision, Sample, acceptance, judge
from lab.benchmarks.updates.simulated import BAD, Simulated, decisions, joined, run

CANARIES = {**BAD, "nothing but errors": Simulated(errors=1.0)}


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES.keys())
def test_a_bad_canary_is_aborted_within_60_answers(canary: Simulated) -> None:
    """Of 20 of each kind; of 300 with half the acceptance, 2 were not, and of the others none."""
    for seed in range(20):
        verdict, answers = run(canary, seed)
        assert verdict.decision is Decision.ABORT, (seed, verdict)
        assert DEFAULT_RULE.least <= answers <= 60


def test_good_canaries_are_not_aborted_and_are_promoted() -> None:
    """20, to the end."""
    found = Counter(decision for decision, _ in decisions(Simulated(), range(20), answers=200))
    assert found == {Decision.PROMOTE: 20}


def test_hardly_any_good_canary_is_aborted() -> None:
    """Of 500 at 60 answers each, looked at after every one: none with these seeds."""
    found = Counter(decision for decision, _ in decisions(Simulated(), range(500), answers=60))
    assert found[Decision.ABORT] == 0
    assert found[Decision.PROMOTE] == 0, "there were less answers than a promotion asks for"


def test_a_canary_beyond_a_bound_is_never_promoted() -> None:
    """Slower than allowed, or accepted less, but so little that nothing proves it."""
    for canary in (Simulated(acceptance=0.42), Simulated(slow=0.09)):
        found = Counter(decision for decision, _ in decisions(canary, range(20), answers=150))
        assert found[Decision.PROMOTE] == 0


def test_edges_that_tell_of_several_answers_at_once_say_less_and_nothing_else() -> None:
    single = [Sample(1, accepted, 100, 0, 0.05) for accepted in (40, 60, 70, 50, 80, 60)] * 5
    fine, coarse = acceptance(single), acceptance(joined(single, 5))
    assert fine is not None
    assert coarse is not None
    assert fine.middle == coarse.middle == 0.6
    assert fine.low < 0.6 < fine.high


def test_nothing_is_decided_below_the_least_number_of_answers() -> None:
    failed = [Sample(0, 0, 0, 1)] * (DEFAULT_RULE.least - 1)
    stable = [Sample(1, 50, 100, 0, 0.05)] * 100
    assert judge(DEFAULT_RULE, stable, failed).decision is Decision.WAIT
    assert judge(DEFAULT_RULE, stable, [*failed, failed[0]]).decision is Decision.ABORT
    assert judge(DEFAULT_RULE, stable[: DEFAULT_RULE.least - 1], failed * 2).decision is Decision.WAIT


def test_a_canary_that_is_never_drafted_for_waits_for_people() -> None:
    stable = [Sample(1, 50, 100, 0, 0.05)] * 200
    assert judge(DEFAULT_RULE, stable, [Sample(1, 0, 0, 0, 0.05)] * 200).decision is Decision.WAIT
    nobody_drafts = [Sample(1, 0, 0, 0, 0.05)] * 200
    assert judge(DEFAULT_RULE, nobody_drafts, nobody_drafts).decision is Decision.PROMOTE


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    answers, errors = draw(st.integers(0, 1000)), draw(st.integers(0, 20))
    drafted = draw(st.integers(0, 10_000))
    times = st.none() | st.floats(1e-6, 1e3)
    return Sample(answers, draw(st.integers(0, drafted)), drafted, errors, draw(times))


@given(st.lists(samples(), max_size=30), st.lists(samples(), max_size=30))
def test_any_samples_give_a_verdict_that_says_why(stable: list[Sample], canary: list[Sample]) -> None:
    verdict = judge(DEFAULT_RULE, stable, canary)
    assert verdict.why
    if verdict.decision is Decision.PROMOTE:
        assert sum(one.tries for one in canary) >= DEFAULT_RULE.promote_after


@pytest.mark.parametrize("values", [{"keep": -0.1}, {"slower": 0.5}, {"slower": float("nan")}])
def test_a_rule_that_cannot_be_decided_by_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--"):
        CanaryRule(**values)  # type: ignore[arg-type]
