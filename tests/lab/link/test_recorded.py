"""Recorded channels: deliveries become a rate, long gaps between them outages."""

import gzip
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from lab.testbed.link.recorded import STALL, recorded
from tests.lab.link.plans import figures, plan

BASE = plan(figures(delay=7.0)).profile
GAPS = st.lists(st.integers(1, 4000), min_size=4, max_size=40)


def write(folder: Path, up: list[int], down: list[int]) -> Path:
    for way, times in (("up", up), ("down", down)):
        lines = "".join(f"{time}\n" for time in times)
        (folder / f"train.{way}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / "train"


def test_rates_are_those_of_each_second_and_way(tmp_path: Path) -> None:
    up, down = [*range(0, 1000, 10), *range(1000, 3001, 100)], [*range(0, 3001, 5)]
    made = recorded(write(tmp_path, up, down), BASE)
    assert made.lasts_s == (1.0, 1.0, 1.0)
    packet = 1500 * 8 / 1e6
    states = made.profile.states
    assert [one.up.rate_mbit.value for one in states] == pytest.approx(
        [100 * packet, 10 * packet, 10 * packet]
    )
    assert [one.down.rate_mbit.value for one in states] == pytest.approx([200 * packet] * 3)
    assert {one.down.delay_ms.value for one in states} == {7.0}
    assert not made.outages


@given(GAPS, GAPS, st.lists(st.floats(0.0, 1.0), min_size=20))
def test_nothing_passes_in_the_long_gaps_of_either_way_and_only_there(
    tmp_path_factory: pytest.TempPathFactory, up: list[int], down: list[int], moments: list[float]
) -> None:
    ways = [*accumulate(up)], [*accumulate(down)]
    if min(ways[0][-1], ways[1][-1]) < 1000:
        return
    made = recorded(write(tmp_path_factory.mktemp("recording"), *ways), BASE)
    lasts = len(made.lasts_s)
    long = [
        (a / 1000, b / 1000)
        for way in ways
        for a, b in pairwise(way)
        if b - a > 1000 * STALL and b < 1000 * lasts
    ]
    for moment in moments:
        at = moment * lasts
        told = any(one.starts_s < at < one.ends_s for one in made.outages)
        assert told >= any(a < at < b for a, b in long)
        assert told <= any(a <= at <= b for a, b in long)
    assert all(one.ends_s < other.starts_s for one, other in pairwise(made.outages))


def test_a_file_that_holds_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.up\.gz"):
        recorded(tmp_path / "train", BASE)
    with pytest.raises(UsageError, match="no second"):
        recorded(write(tmp_path, [1, 2], [1, 2]), BASE)
