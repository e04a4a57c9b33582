"""Channels that change with time: Markov states, outages, traces."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.profiles import State
from lab.testbed.link.rate import StateRate, TraceRate
from lab.testbed.link.timeline import OutageTimeline, StateTimeline, drawn_outages
from lab.testbed.link.trace import read_trace
from tests.lab.link.plans import OUTAGES, figure, figures, plan, state

ONE, TWO, THREE = (
    state(figures(), name, dwell) for name, dwell in (("one", 1.0), ("two", 2.0), ("three", 0.5))
)


def test_states_have_their_share_of_the_time() -> None:
    timeline = StateTimeline((ONE, TWO), random.Random(1))
    shares = [0, 0]
    for tick in range(200_000):
        shares[timeline.at(tick * 0.1)[0]] += 1
    # About 6,700 visits to each state: the share's standard deviation is half a percent.
    assert shares[1] / sum(shares) == pytest.approx(2 / 3, abs=0.03)


def test_a_timeline_answers_the_same_whatever_was_asked_before() -> None:
    forwards, jumping = (StateTimeline((ONE, TWO, THREE), random.Random(2)) for _ in range(2))
    late = jumping.at(500.0)
    seen = [forwards.at(tick * 0.25) for tick in range(2001)]
    assert seen[-1] == late
    assert [jumping.at(tick * 0.25) for tick in range(2001)] == seen


def test_a_state_is_followed_only_by_what_its_weights_allow() -> None:
    ring = tuple(
        State(one.name, one.up, one.down, one.dwell_s, {after: 1.0})
        for one, after in ((ONE, "two"), (TWO, "three"), (THREE, "one"))
    )
    timeline = StateTimeline(ring, random.Random(3))
    time, order = 0.0, []
    for _ in range(300):
        index, time = timeline.at(time)
        order.append(index)
    assert order == [0, 1, 2] * 100


def test_outages_have_their_bounds_and_their_gaps() -> None:
    found = OutageTimeline(drawn_outages(OUTAGES, random.Random(4))).between(0, 2000)
    lengths = [end - start for start, end in found]
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(found)]
    assert min(lengths) >= 0.05
    assert max(lengths) <= 0.4
    assert sum(gaps) / len(gaps) == pytest.approx(0.5, rel=0.1), (
        "of about 2,900 gaps; five standard deviations"
    )


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(0, 5))
def test_touching_agrees_with_a_search_through_all_outages(start: float, length: float) -> None:
    timeline = OutageTimeline(drawn_outages(OUTAGES, random.Random(5)))
    every = OutageTimeline(drawn_outages(OUTAGES, random.Random(5))).between(0, 100)
    hit = [end for begin, end in every if begin <= start + length and end > start]
    assert timeline.touching(start, start + length) == (hit[0] if hit else None)


def test_a_packet_that_sees_the_state_change_goes_on_at_the_new_rate() -> None:
    timeline = StateTimeline((ONE, TWO), random.Random(6))
    change = timeline.at(0.0)[1]
    rate = StateRate(timeline, [8000.0, 80_000.0])
    # Half a second before the change: 4,000 bits at 8 kbit/s, the other 4,000 at 80 kbit/s.
    assert rate.transmit(change - 0.5, 1000) == pytest.approx((change - 0.5, change + 0.05))


def test_states_change_delay_and_loss() -> None:
    gone = State("gone", figures(loss=100), figures(loss=100), figure(1.0))
    good = State("good", figures(delay=50), figures(delay=50), figure(1.0))
    impaired = Impairment(plan(None, good, gone, seed=7), "up")
    timeline = StateTimeline((good, gone), random.Random("states/7"))
    for tick in range(500):
        fate = impaired.arrive(tick * 0.1, 100)
        assert (fate is Drop.LOSS) == (timeline.at(tick * 0.1)[0] == 1)


def test_a_trace_delivers_at_its_opportunities_and_begins_anew() -> None:
    rate = TraceRate([2, 5, 5, 10])
    ends = [rate.transmit(0.0, 1500)[1] for _ in range(9)]
    assert ends == pytest.approx([0.002, 0.005, 0.005, 0.010, 0.012, 0.015, 0.015, 0.020, 0.022])
    rate = TraceRate([2, 4, 6, 8, 10])
    assert [rate.transmit(0.0, 500)[1] for _ in range(4)] == pytest.approx([0.002, 0.002, 0.002, 0.004])
    assert rate.transmit(0.0, 3000) == pytest.approx((0.004, 0.008)), (
        "1,000 bytes are left of the one at 4 ms"
    )
    assert rate.transmit(0.009, 100)[1] == pytest.approx(0.010), "what was left at 8 ms is gone"
    assert rate.transmit(100.0005, 1500)[1] == pytest.approx(100.002)


@settings(deadline=None)
@example([0, 26], [(0.0625, 40)] * 6 + [(0.09375, 40), (0.0, 1461)])
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(40, 1500))),
)
def test_a_trace_carries_no_more_than_its_opportunities(
    steps: list[int], came: list[tuple[float, int]]
) -> None:
    times, time = [], 0
    for step in steps:
        time += step
        times.append(time)
    times[-1] += 1
    period = times[-1]
    rate, ready, carried = TraceRate(times), 0.0, 0
    for gap, size in came:
        ready += gap
        start, end = rate.transmit(ready, size)
        carried += size
        assert ready <= start <= end
        rounds = int(end * 1000 / period) + 1
        offered = sum(1 for r in range(rounds + 1) for at in times if r * period + at <= end * 1000 + 1e-6)
        assert carried <= offered * 1500


def test_traces_replace_the_rate_of_their_way_only() -> None:
    link = plan(figures(delay=0, rate=8), up_trace=(100,))
    assert Impairment(link, "up").arrive(0.0, 1500) == pytest.approx(0.1)
    assert Impairment(link, "down").arrive(0.0, 1500) == pytest.approx(0.0015)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs at least one opportunity"),
        ("0\n0\n", "needs at least one opportunity"),
        ("1\nx\n", "line 2 is no whole number"),
        ("1\n-2\n", "line 2 is no whole number"),
        ("5\n4\n", "line 2 goes back in time"),
        ("1\né\n", "not text"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=why):
        read_trace(path)
