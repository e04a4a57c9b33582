"""What a session waits for its turn at the worker: only where the worker waited for its drafts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.turn import Turn
from tests.controller.test_closed_form import NEAR

WAITS = Plan(draft_length=4, ahead=0)
AHEAD = Plan(draft_length=4, ahead=64)


def after(turn: Turn, plans: list[tuple[Plan, float]], committed: int = 0) -> int:
    """Rounds: what was planned, and how long the forward's batch queued."""
    for plan, queue in plans:
        turn.planned(plan)
        committed += 1
        turn.saw(replace(NEAR, committed=committed, queue=queue))
    return committed


def test_a_forward_of_ones_own_is_no_turn_of_others() -> None:
    turn = Turn()
    after(turn, [(AHEAD, 0.09)] * 10 + [(WAITS, 0.09), (WAITS, 0.05)] + [(WAITS, 0.001)] * 4)
    assert 0.0 < turn.seconds <= 0.001


def test_one_batch_that_waits_once_is_not_taken_for_others() -> None:
    turn = Turn()
    after(turn, [(WAITS, 0.09 if place % 5 == 4 else 0.0) for place in range(40)])
    assert turn.seconds == 0.0


def test_what_others_take_is_learned_and_then_forgotten_little_by_little() -> None:
    turn = Turn()
    committed = after(turn, [(WAITS, 0.03)] * 24)
    assert turn.seconds == pytest.approx(0.03, rel=0.02)
    after(turn, [(AHEAD, 0.09)] * 70, committed)
    assert 0.01 < turn.seconds < 0.02


def test_plans_without_a_verdict_between_them_tell_nothing() -> None:
    turn = Turn()
    seen = replace(NEAR, committed=1, queue=0.05)
    for _ in range(20):
        turn.planned(WAITS)
        turn.saw(seen)
    assert turn.seconds == 0.0


def test_what_somebody_else_planned_starts_it_anew() -> None:
    turn = Turn()
    committed = after(turn, [(WAITS, 0.0)] * 5)
    turn.interrupted()
    after(turn, [(WAITS, 0.09), (WAITS, 0.09)], committed)
    assert turn.seconds == 0.0


@given(st.lists(st.tuples(st.sampled_from([WAITS, AHEAD]), st.floats(0.0, 2.0))))
def test_it_stays_within_what_was_seen(rounds: list[tuple[Plan, float]]) -> None:
    turn = Turn()
    after(turn, rounds)
    assert 0.0 <= turn.seconds <= max((queue for _, queue in rounds), default=0.0)
