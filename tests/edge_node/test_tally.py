"""What an edge has seen of its versions."""

from __future__ import annotations

from math import isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.fleet.tally import Target, VersionTally, Wrote, wilson
from schemas.catalogue import MAX_VERSIONS

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
                1.959964 * sqrt(end * (1 - end) / of), rel=1e-5, abs=1e-9
            )


def test_an_interval_that_is_known() -> None:
    """Newcombe (1998), table I: 81 of 263."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def wrote(*, complete: bool = True, failed: bool = False) -> Wrote:
    return Wrote(complete=complete, failed=failed, drafted=8, accepted=6, tokens=20, seconds=0.5)


def test_sums_are_by_name_and_digest_and_bounded() -> None:
    tally = VersionTally()
    tally.add(Target("v", "aa"), wrote())
    tally.add(Target("v", "bb"), wrote(complete=False, failed=True))
    tally.add(Target("v", "aa"), wrote(complete=False))
    other, one = tally.figures()
    assert (one.name, one.digest, one.answers, one.errors) == ("v", "aa", 1, 0)
    assert (one.drafted, one.accepted, one.tokens, one.seconds) == (16, 12, 40, 1.0)
    assert (one.low, one.high) == wilson(12, 16)
    assert (other.digest, other.answers, other.errors) == ("bb", 0, 1)
    for number in range(MAX_VERSIONS):
        tally.add(Target(f"v{number}"), wrote())
    assert [figures.name for figures in tally.figures()] == [f"v{number}" for number in range(MAX_VERSIONS)]
