"""The forecast of a plan: cases that can be written down, and bounds that hold for all."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flexspec_mq.controller.round_model import Drafting, RoundTimes, drafting

seconds = st.floats(0.001, 0.5)
rounds = st.builds(
    RoundTimes,
    round_trip=seconds,
    forward=seconds,
    row=st.floats(0.0, 0.005),
    token=seconds,
    acceptance=st.lists(st.floats(0.0, 0.95), min_size=1, max_size=16).map(tuple),
    wait=st.floats(0.0, 0.1),
)
lengths = st.integers(1, 16)


@given(rounds, lengths)
def test_one_batch_after_another_takes_what_its_parts_take(times: RoundTimes, length: int) -> None:
    """The draft is never right about the token behind a batch: nothing is drafted in vain, and nothing ahead."""
    places = [*times.acceptance, *[times.acceptance[-1]] * length][:length]
    tokens = 1 + sum(accumulate(places, mul))
    took = times.round_trip + length * times.token + times.wait + times.forward + length * times.row
    forecast = drafting(replace(times, acceptance=(*places, 0.0)), Drafting(length, 1, False))
    assert forecast.seconds == pytest.approx(took / tokens)
    assert forecast.verdicts == pytest.approx(1 / tokens)


@given(rounds, lengths, st.integers(1, 4))
def test_a_worker_that_goes_on_is_never_slower_than_streaming_but_for_its_rows(
    times: RoundTimes, length: int, window: int
) -> None:
    forecast = drafting(times, Drafting(length, window, True))
    assert forecast.seconds <= times.forward + length * window * times.row + 1e-9


@given(rounds, lengths, st.integers(1, 4), st.booleans())
def test_all_that_is_expected_is_possible(times: RoundTimes, length: int, window: int, ahead: bool) -> None:
    forecast = drafting(times, Drafting(length, window, ahead))
    assert forecast.seconds * (1 + length * window) >= times.forward - 1e-9
    assert forecast.drafted >= 0
    assert 1 / (1 + length * window) <= forecast.verdicts + 1e-9 <= 1 + 2e-9


def test_a_second_batch_on_its_way_is_worth_more_the_longer_that_is() -> None:
    near = RoundTimes(round_trip=0.002, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    far = RoundTimes(round_trip=0.06, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    gains = [
        drafting(times, Drafting(4, 1, True)).seconds / drafting(times, Drafting(4, 2, True)).seconds
        for times in (near, far)
    ]
    assert gains[1] > gains[0] > 0.99
