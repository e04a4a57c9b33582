"""What forwards cost: curves between measured points, and tables of them."""

from __future__ import annotations

import msgspec
import pytest

from lab.simulator.cost import (
    CostCurve,
    DraftForward,
    DraftTimes,
    TargetForward,
)
from tests.lab.simulator.recordings import TIMES


def test_a_curve_is_straight_between_its_points_and_beyond_the_last() -> None:
    line = CostCurve((1.0, 3.0, 7.0), (10.0, 20.0, 28.0))
    assert [line(place) for place in (0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 9.0)] == [10, 10, 15, 20, 24, 28, 32]
    assert CostCurve((4.0,), (5.0,))(9.0) == 5.0


@pytest.mark.parametrize(("at", "ms"), [((), ()), ((1.0, 1.0), (2.0, 3.0)), ((1.0, 2.0), (3.0,))])
def test_what_is_no_curve_is_refused(at: tuple[float, ...], ms: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="curve"):
        CostCurve(at, ms)


def test_a_measured_forward_lies_between_its_neighbours() -> None:
    times = msgspec.structs.replace(TIMES, context=CostCurve((1.0,), (0.01,)))
    assert msgspec.structs.replace(TIMES, delay=60.0).forward(TargetForward(1, 1)) == pytest.approx(90.0)
    assert times.forward(TargetForward(1, 1)) == pytest.approx(30.0)
    assert times.forward(TargetForward(1, 3, 0, 100)) == pytest.approx(32.0 + 1.0)
    assert times.forward(TargetForward(4, 20)) == pytest.approx(60.0)
    # Between one session and four of five rows each.
    assert times.forward(TargetForward(2, 10)) == pytest.approx(34.0 + (60.0 - 34.0) / 3)
    assert times.forward(TargetForward(0, 0, 128)) == pytest.approx(157.0)
    reaching = msgspec.structs.replace(TIMES, reach=0.001)
    assert reaching.forward(TargetForward(0, 0, 128, 0, 128 * 100)) == pytest.approx(157.0 + 12.8)
    # Beside rows a prompt costs what its tokens add to them.
    assert times.forward(TargetForward(1, 1, 65)) == pytest.approx(30.0 + 65.0)
    free = msgspec.structs.replace(TIMES, beside=CostCurve((1.0, 9.0, 17.0), (30.0, 30.0, 38.0)))
    assert free.forward(TargetForward(1, 1, 8)) == pytest.approx(30.0)
    assert free.forward(TargetForward(2, 10, 8)) == pytest.approx(free.forward(TargetForward(2, 10)) + 8.0)


def test_contexts_cost_more_where_more_rows_look_at_them() -> None:
    contexts = CostCurve((1.0, 4.0), (0.001, 0.01))
    times = msgspec.structs.replace(TIMES, context=contexts, behind=0.002)
    assert times.forward(TargetForward(1, 1, 0, 1000)) == pytest.approx(30.0 + 1.0)
    assert times.forward(TargetForward(4, 4, 0, 1000)) == pytest.approx(40.0 + 10.0)
    assert times.forward(TargetForward(4, 20, 0, 1000)) == pytest.approx(60.0 + 10.0 + 8.0)


def test_a_drafts_forward_costs_its_sessions_its_reading_and_their_contexts() -> None:
    times = DraftTimes(token=3.0, session=0.5, read=1.0, context=0.01, reach=0.001)
    assert times.call(DraftForward(1)) == 3.0
    assert times.call(DraftForward(3, 10, 200, 500)) == pytest.approx(3.0 + 1.0 + 10.0 + 2.0 + 0.5)
