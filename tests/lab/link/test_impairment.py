"""The impairment, by property: packets at any times and of any sizes, over channels that change with time."""

import math
import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.testbed.link.impairment import LEAST_RTO, Drop, Impairment, StateRate
from lab.testbed.link.profiles import LinkPlan, State, built_in
from lab.testbed.link.timeline import OutageTimeline, StateTimeline, drawn_outages
from tests.lab.link.plans import OUTAGES, figure, figures, plan, state

Packets = list[tuple[float, int]]
EPSILON = 1e-9


@st.composite
def packets(draw: st.DrawFn) -> Packets:
    gaps = draw(st.lists(st.sampled_from([0.0, 0.0001, 0.001, 0.004, 0.05, 0.7]), min_size=1, max_size=120))
    sizes = st.sampled_from([40, 52, 576, 1500])
    time = 0.0
    sent = []
    for gap in gaps:
        time += gap
        sent.append((time, draw(sizes)))
    return sent


def fates(impaired: Impairment, came: Packets) -> list[float | Drop]:
    return [impaired.arrive(time, size) for time, size in came]


@st.composite
def plans(draw: st.DrawFn) -> LinkPlan:
    number = st.floats(0.1, 50)
    first = figures(
        draw(number), draw(st.sampled_from([0.0, 0.5, 20.0])), draw(number), draw(st.floats(0, 30))
    )
    second = figures(draw(number), draw(st.sampled_from([0.0, 3.0])), draw(number), draw(st.floats(0, 30)))
    outages, seed = draw(st.sampled_from([None, OUTAGES])), draw(st.integers(0, 1000))
    return plan(None, state(first, "first", 0.05), state(second, "second", 0.2), outages=outages, seed=seed)


@given(plans(), packets())
def test_order_is_kept_and_no_packet_is_faster_than_the_base(link: LinkPlan, came: Packets) -> None:
    least = min(steady.up.delay_ms.value for steady in link.profile.states) / 1000
    out = [(time, fate) for (time, _), fate in zip(came, fates(Impairment(link, "up"), came), strict=True)]
    passed = [(time, fate) for time, fate in out if not isinstance(fate, Drop)]
    assert all(fate >= time + least - EPSILON for time, fate in passed)
    assert all(later[1] >= earlier[1] for earlier, later in pairwise(passed))


@given(packets(), st.floats(0.2, 100), st.sampled_from([0.0, 1.0, 20.0]), st.integers(0, 1000))
def test_the_rate_is_never_exceeded(came: Packets, rate: float, jitter: float, seed: int) -> None:
    """Over any stretch of deliveries, what arrives after its first packet fits into the time that it took."""
    impaired = Impairment(plan(figures(jitter=jitter, rate=rate), seed=seed), "up")
    passed = [
        (fate, size)
        for (_, size), fate in zip(came, fates(impaired, came), strict=True)
        if not isinstance(fate, Drop)
    ]
    for first in range(len(passed)):
        bits = 0.0
        for last in range(first + 1, len(passed)):
            bits += passed[last][1] * 8
            assert bits <= (passed[last][0] - passed[first][0]) * rate * 1e6 + 1e-3


def test_on_an_idle_link_exactly_what_meets_an_outage_is_dropped() -> None:
    impaired = Impairment(plan(figures(delay=10, rate=8), outages=OUTAGES, seed=9), "up")
    outages = OutageTimeline(drawn_outages(OUTAGES, random.Random("outages/9"))).between(0, 300)
    dropped = 0
    for number in range(10_000):
        sent = number * 0.03
        on_air, arrives = sent + 0.001, sent + 0.011
        meets = any(start <= on_air and end > sent for start, end in outages) or any(
            start <= arrives < end for start, end in outages
        )
        assert (impaired.arrive(sent, 1000) is Drop.OUTAGE) == meets
        dropped += meets
    assert 1000 < dropped < 9000


@given(packets(), st.sampled_from([1.5, 3.0, 20.0]))
def test_the_queue_is_bounded_and_refuses_the_newest(came: Packets, queue: float) -> None:
    impaired = Impairment(plan(figures(rate=1.0, queue=queue)), "up")
    for time, size in came:
        before = impaired.backlog(time)
        fate = impaired.arrive(time, size)
        assert (fate is Drop.OVERFLOW) == (before + size > queue * 1000) == (not isinstance(fate, float))
        assert impaired.backlog(time) <= queue * 1000


@given(plans(), packets())
def test_a_stream_is_late_but_whole_and_in_order(link: LinkPlan, came: Packets) -> None:
    least = min(steady.up.delay_ms.value for steady in link.profile.states) / 1000
    impaired = Impairment(link, "up")
    out = [impaired.hold(time, size) for time, size in came]
    assert all(due >= time + least - EPSILON for due, (time, _) in zip(out, came, strict=True))
    assert all(later >= earlier for earlier, later in pairwise(out))
    outages = impaired.outages.between(0, out[-1] + 1)
    assert not any(start <= due < end for due in out for start, end in outages)


def test_a_single_packet_takes_its_time_on_the_link_and_the_delay() -> None:
    impaired = Impairment(plan(figures(delay=10, rate=8)), "up")
    assert impaired.arrive(1.0, 1000) == pytest.approx(1.0 + 0.001 + 0.010)
    assert impaired.arrive(1.0, 1000) == pytest.approx(1.0 + 0.002 + 0.010), (
        "the second one waits for the first"
    )


def test_jitter_has_its_mean() -> None:
    impaired = Impairment(plan(figures(delay=10, jitter=5, rate=1e5)), "up")
    extras = []
    for number in range(20_000):
        fate = impaired.arrive(number * 1.0, 40)
        assert isinstance(fate, float)
        extras.append(fate - number - 0.010)
    # The mean of 20,000 exponentials is within 4 % of theirs but for one seed in 10⁸.
    assert sum(extras) / len(extras) == pytest.approx(0.005, rel=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_loss_has_its_rate(seed: int) -> None:
    impaired = Impairment(plan(figures(loss=2.0, rate=1e5), seed=seed), "up")
    lost = sum(isinstance(impaired.arrive(number * 0.001, 40), Drop) for number in range(50_000))
    # Five standard deviations: a false alarm in one of a million seeds.
    assert abs(lost - 1000) < 5 * math.sqrt(50_000 * 0.02 * 0.98)
    assert impaired.counters.lost == lost


def test_a_lost_piece_of_a_stream_comes_one_timeout_later() -> None:
    impaired = Impairment(plan(figures(delay=10, rate=8, loss=100)), "up")
    assert impaired.hold(0.0, 1000) == pytest.approx(0.011 + LEAST_RTO)
    slow = Impairment(plan(figures(delay=300, rate=8, loss=100)), "up")
    assert slow.hold(0.0, 1000) == pytest.approx(0.301 + 0.6)


def test_room_comes_when_enough_has_been_sent() -> None:
    impaired = Impairment(plan(figures(rate=8, queue=2)), "up")
    for _ in range(5):
        impaired.hold(0.0, 1000)
    assert impaired.room_at(0.0) == pytest.approx(0.003), "five of 1 kB came, 2 kB may wait"
    assert impaired.room_at(0.004) == 0.004


def test_both_ways_share_their_outages_unless_one_is_named() -> None:
    profile = built_in().get("tunnel")
    up, down = (
        Impairment(LinkPlan("tunnel", profile, 5), way).outages.between(0, 600) for way in ("up", "down")
    )
    assert up == down
    assert up
    assert all(1 <= end - start <= 20 for start, end in up)
    assert profile.outages is not None
    one_way = msgspec.structs.replace(profile, outages=msgspec.structs.replace(profile.outages, ways="up"))
    assert not Impairment(LinkPlan("tunnel", one_way, 5), "down").outages.between(0, 600)
    assert Impairment(LinkPlan("tunnel", one_way, 5), "up").outages.between(0, 600) == up


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
