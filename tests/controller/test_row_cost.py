"""What a row more costs, from forwards that differ."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.row_cost import RowCost

FORWARDS = st.lists(st.tuples(st.integers(0, 64), st.floats(0.001, 10.0), st.floats(0, 100)), max_size=60)


def forwards(
    rows: Sequence[int], base: float, row: float, noise: float = 0.0, seed: int = 1
) -> list[tuple[int, float]]:
    """Forwards of so many rows that take `base` and `row` for each of them, told in whole milliseconds."""
    rng = random.Random(seed)
    return [(one, round(base + row * one + rng.gauss(0.0, noise), 3)) for one in rows]


def fed(*parts: Sequence[tuple[int, float]]) -> RowCost:
    cost, now = RowCost(), 0.0
    for part in parts:
        for rows, seconds in part:
            now += 0.1
            cost.update(rows, seconds, now)
    return cost


def drawn(count: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(9), k=count)


def known(cost: RowCost) -> tuple[float, float]:
    assert cost.seconds is not None
    assert cost.error is not None
    return cost.seconds, cost.error


def test_nothing_is_known_before_a_forward() -> None:
    assert (RowCost().seconds, RowCost().error) == (None, None)


@given(FORWARDS)
def test_a_row_never_gains_time(seen: list[tuple[int, float, float]]) -> None:
    cost, now = RowCost(), 0.0
    for rows, seconds, passed in seen:
        now += passed
        cost.update(rows, seconds, now)
        assert cost.seconds is not None
        assert cost.error is not None
        assert cost.seconds >= 0.0
        assert cost.error > 0.0


@given(st.floats(0.01, 1.0), st.integers(0, 64), st.integers(1, 100))
def test_equal_forwards_leave_it_at_what_is_usual_and_say_so(base: float, rows: int, count: int) -> None:
    seconds, error = known(fed([(rows, base)] * count))
    assert seconds == pytest.approx(0.01 * base)
    assert error == pytest.approx(0.02 * base)


@given(st.floats(0.02, 0.5), st.floats(0.0, 0.2), st.integers(0, 1000))
def test_forwards_that_differ_tell_it(base: float, share: float, seed: int) -> None:
    row = share * base
    cost = fed(forwards(drawn(60, seed), base, row, 0.02 * base, seed))
    seconds, error = known(cost)
    assert abs(seconds - row) < 5 * error
    assert error < 0.025 * base


def test_a_free_row_is_told_from_a_dear_one() -> None:
    free, dear = (known(fed(forwards(drawn(40), 0.04, row, 0.001))) for row in (0.0, 0.004))
    assert free[0] + 2 * free[1] < dear[0] - 2 * dear[1]


@pytest.mark.parametrize("base", [0.02, 0.2])
def test_a_worker_that_changes_as_a_whole_does_not_change_it(base: float) -> None:
    cost = fed(forwards(drawn(40), 0.05, 0.002, 0.001), forwards(drawn(30, 2), base, 0.002, 0.001))
    seconds, error = known(cost)
    assert abs(seconds - 0.002) < 4 * error
    assert seconds == pytest.approx(0.002, abs=0.0015)


@pytest.mark.parametrize(("before", "after"), [(0.0005, 0.005), (0.005, 0.0005)])
def test_a_change_of_the_row_itself_is_followed(before: float, after: float) -> None:
    cost = fed(forwards(drawn(60), 0.05, before, 0.001), forwards(drawn(40, 2), 0.05, after, 0.001))
    assert known(cost)[0] == pytest.approx(after, abs=0.0008)


def test_one_change_of_the_draft_length_tells_it_already() -> None:
    """No drafts for a long time, then eight tokens a batch: the step is the rows', not the worker's."""
    cost = fed(forwards([0] * 50, 0.05, 0.003, 0.0005), forwards([8] * 3, 0.05, 0.003, 0.0005))
    assert known(cost)[0] == pytest.approx(0.003, abs=0.0012)


def test_a_forward_that_also_read_a_long_prompt_hardly_counts() -> None:
    calm = forwards(drawn(60), 0.05, 0.002, 0.001)
    spiked = [*calm, (8, 2.0), *forwards(drawn(10, 2), 0.05, 0.002, 0.001)]
    assert known(fed(spiked))[0] == pytest.approx(0.002, abs=0.002)
    assert known(fed(spiked))[1] > known(fed(calm))[1]


def test_what_is_known_fades_in_silence() -> None:
    cost = fed(forwards(drawn(60), 0.05, 0.01, 0.0005))
    sure = known(cost)[1]
    cost.update(0, 0.05, 10_000.0)
    cost.update(1, 0.06, 20_000.0)
    assert known(cost)[1] > 1.5 * sure
