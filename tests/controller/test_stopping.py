"""When batches end early: what the threshold depends on, and what a plan stands for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.choices import LENGTHS, NOBODY, Choice
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.stopping import choice_of, ending_early, token_worth

BASE = Plan(draft_length=4, ahead=8, worker_draft=8)
SEEN = Observation(rate=20.0, draft_time=0.01, row_cost=0.0)

drafting = st.builds(Choice, st.sampled_from(LENGTHS), st.integers(1, 3), st.booleans())
known = st.builds(
    Observation,
    rate=st.floats(0.1, 500.0),
    draft_time=st.floats(1e-4, 0.5),
    row_cost=st.none() | st.floats(0.0, 0.05),
    granted=st.none() | st.integers(1, 16),
)


@given(drafting, known)
def test_batches_are_cut_to_what_is_granted_and_never_made_shorter_else(
    choice: Choice, seen: Observation
) -> None:
    plan = ending_early(choice, BASE, seen)
    granted = LENGTHS[-1] if seen.granted is None else seen.granted
    assert min(choice.length, granted) <= plan.draft_length <= min(granted, LENGTHS[-1])
    assert 0 < plan.confidence_threshold < 0.5
    assert (plan.in_flight, plan.ahead > 0) == (choice.window, choice.ahead)
    assert (plan.worker_draft, plan.qos) == (BASE.worker_draft, BASE.qos)


@given(drafting, known, st.floats(1.0, 10.0))
def test_the_dearer_a_token_is_the_surer_it_has_to_be(
    choice: Choice, seen: Observation, times: float
) -> None:
    before = ending_early(choice, BASE, seen).confidence_threshold
    for dearer in (
        replace(seen, rate=(seen.rate or 0.0) * times),
        replace(seen, draft_time=(seen.draft_time or 0.0) * times),
        replace(seen, row_cost=(seen.row_cost or 0.0) * times),
    ):
        assert ending_early(choice, BASE, dearer).confidence_threshold >= before


@given(drafting, known)
def test_a_plan_stands_for_its_choice_unless_its_length_was_cut(choice: Choice, seen: Observation) -> None:
    plan = ending_early(choice, BASE, replace(seen, granted=None))
    found = choice_of(plan, BASE)
    assert (found.window, found.ahead) == (choice.window, choice.ahead)
    assert found.length == choice.length or plan.draft_length == LENGTHS[-1]
    assert found.length <= choice.length


def test_a_token_is_worth_what_is_written_in_its_time() -> None:
    assert token_worth(SEEN) == pytest.approx(0.2)
    assert token_worth(replace(SEEN, row_cost=0.005)) == pytest.approx(0.3)
    assert token_worth(replace(SEEN, rate=None)) is None
    assert token_worth(replace(SEEN, draft_time=None)) is None


def test_drafting_beside_forwards_counts_half() -> None:
    waiting = ending_early(Choice(4, 1, False), BASE, SEEN)
    ahead = ending_early(Choice(4, 2, True), BASE, SEEN)
    assert waiting.confidence_threshold == pytest.approx(0.2)
    assert ahead.confidence_threshold == pytest.approx(0.1)
    assert (waiting.draft_length, ahead.draft_length) == (8, 12)


def test_before_anything_is_known_and_where_nobody_drafts_nothing_ends_early() -> None:
    assert ending_early(Choice(4, 2, True), BASE, Observation()) == replace(BASE, in_flight=2)
    assert ending_early(NOBODY, BASE, SEEN) == replace(BASE, draft_length=0)


def test_a_threshold_of_the_user_is_kept() -> None:
    base = replace(BASE, confidence_threshold=0.6)
    plan = ending_early(Choice(6, 2, True), base, SEEN)
    assert (plan.confidence_threshold, plan.draft_length) == (0.6, 6)
    assert choice_of(plan, base) == Choice(6, 2, True)
