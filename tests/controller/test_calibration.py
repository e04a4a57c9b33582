"""Forecasts are corrected by what tokens took, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.calibration import Calibration, Check
from flexspec_mq.controller.choices import NOBODY, Choice

AHEAD, WAITS = Choice(4, 2, True), Choice(4, 1, False)


def write(
    check: Check, choice: Choice | None, took: float, rounds: int, start: tuple[int, float]
) -> tuple[int, float]:
    """Rounds of three tokens that take so many times what they are expected to."""
    committed, at = start
    for _ in range(rounds):
        committed, at = committed + 3, at + 3 * 0.03 * took
        check.goes_on(choice, 0.03, committed, at)
    return committed, at


@given(st.floats(0.5, 2.0), st.sampled_from((NOBODY, AHEAD, WAITS)))
def test_a_ratio_comes_near_what_is_seen_and_the_others_stay(took: float, choice: Choice) -> None:
    calibration = Calibration()
    others = {other: calibration.ratio(other) for other in (NOBODY, AHEAD, WAITS) if other is not choice}
    write(Check(calibration), choice, took, 600, (0, 0.0))
    assert calibration.ratio(choice) == pytest.approx(took, rel=0.05)
    assert {other: calibration.ratio(other) for other in others} == others


def test_what_is_not_tried_any_more_is_forgotten() -> None:
    calibration = Calibration()
    before, check = calibration.ratio(AHEAD), Check(calibration)
    here = write(check, AHEAD, 2.0, 600, (0, 0.0))
    assert calibration.ratio(AHEAD) > 1.5 * before
    write(check, NOBODY, 1.0, 3000, here)
    assert calibration.ratio(AHEAD) == pytest.approx(before, rel=0.1)


def test_nothing_is_learned_while_the_device_does_not_draft() -> None:
    calibration = Calibration()
    before = calibration.ratio(AHEAD)
    write(Check(calibration), None, 2.0, 600, (0, 0.0))
    assert calibration.ratio(AHEAD) == before


def test_tokens_of_another_plan_do_not_count() -> None:
    """What comes just after a change was planned before it; too few tokens say nothing."""
    calibration = Calibration()
    check, here, before = Check(calibration), (0, 0.0), calibration.ratio(AHEAD)
    for number in range(100):
        here = write(check, (AHEAD, WAITS)[number % 2], 3.0, 4, here)
    assert calibration.ratio(AHEAD) == before


def test_no_sample_is_believed_without_bounds() -> None:
    calibration = Calibration()
    write(Check(calibration), AHEAD, 1e6, 5000, (0, 0.0))
    assert calibration.ratio(AHEAD) < 2.6
