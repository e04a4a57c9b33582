"""The interval of a share."""

from __future__ import annotations

from math import isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.wilson import Z95, wilson

COUNTS = st.integers(0, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


@given(COUNTS)
def test_the_ends_of_the_interval_are_where_the_share_would_be_just_as_unlikely(
    counts: tuple[int, int],
) -> None:
    """Wilson (1927): each end p solves |p - share| = z * sqrt(p (1 - p) / n)."""
    count, of = counts
    low, high = wilson(count, of)
    if not of:
        assert (low, high) == (0.0, 1.0)
        return
    assert 0.0 <= low <= count / of <= high <= 1.0 or isclose(low, count / of) or isclose(high, count / of)
    for end in (low, high):
        if 1e-12 < end < 1 - 1e-12:
            assert abs(end - count / of) == pytest.approx(
                Z95 * sqrt(end * (1 - end) / of), rel=1e-5, abs=1e-9
            )


def test_intervals_that_are_known() -> None:
    """Newcombe (1998), table I: 81 of 263 and 0 of 20, at 95 %."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
