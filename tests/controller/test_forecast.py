"""The forecast of a plan: cases that can be written down, and bounds that hold for all."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.forecast import Pace, drafting, streaming

seconds = st.floats(0.001, 0.5)
paces = st.builds(
    Pace,
    round_trip=seconds,
    forward=seconds,
    row=st.floats(0.0, 0.005),
    token=seconds,
    acceptance=st.lists(st.floats(0.0, 0.95), min_size=1, max_size=16),
    wait=st.floats(0.0, 0.1),
)
lengths = st.integers(1, 16)


@given(paces, lengths)
def test_one_batch_after_another_takes_what_its_parts_take(pace: Pace, length: int) -> None:
    """The draft is never right about the token behind a batch: nothing is drafted in vain, and nothing ahead."""
    places = [*pace.acceptance, *[pace.acceptance[-1]] * length][:length]
    tokens = 1 + sum(accumulate(places, mul))
    took = pace.round_trip + length * pace.token + pace.wait + pace.forward + length * pace.row
    found = drafting(replace(pace, acceptance=(*places, 0.0)), length, 1, ahead=False)
    assert found.seconds == pytest.approx(took / tokens)
    assert found.rows == pytest.approx((1 + length) / tokens)


@given(paces, lengths, st.integers(1, 4))
def test_a_worker_that_goes_on_is_never_slower_than_streaming_but_for_its_rows(
    pace: Pace, length: int, window: int
) -> None:
    found = drafting(pace, length, window, ahead=True)
    rows_beside = (found.rows - 1) * pace.row
    assert found.seconds <= streaming(pace).seconds + rows_beside + 1e-9


@given(paces, lengths, st.integers(1, 4), st.booleans())
def test_all_that_is_expected_is_possible(pace: Pace, length: int, window: int, ahead: bool) -> None:
    found = drafting(pace, length, window, ahead=ahead)
    assert found.seconds * (1 + length * window) >= pace.forward - 1e-9
    assert found.drafted >= 0
    assert found.rows >= 1 / (1 + length * window)


def test_a_draft_that_comes_too_late_gives_nothing() -> None:
    pace = Pace(round_trip=1.0, forward=0.05, row=0.0, token=0.005, acceptance=(0.7,))
    assert drafting(pace, 4, 1, ahead=True).seconds == pytest.approx(streaming(pace).seconds)


def test_a_second_batch_on_its_way_is_worth_more_the_longer_that_is() -> None:
    near = Pace(round_trip=0.002, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    far = Pace(round_trip=0.06, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    gains = [
        drafting(pace, 4, 1, ahead=True).seconds / drafting(pace, 4, 2, ahead=True).seconds
        for pace in (near, far)
    ]
    assert gains[1] > gains[0] > 0.99


def test_a_slow_target_close_by_should_wait_for_drafts() -> None:
    pace = Pace(round_trip=0.002, forward=0.1, row=0.001, token=0.004, acceptance=(0.5, 0.58, 0.62, 0.75))
    assert drafting(pace, 4, 1, ahead=False).seconds < 0.9 * drafting(pace, 4, 2, ahead=True).seconds
