"""The way to the broker: how often it breaks and for how long, how fast it acknowledges, what it carries."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.link import BIG, Disconnects, LeastRate

PRIOR = 1 / 3600


def connections(disconnects: Disconnects, *lasted: float, outage: float = 1.0, now: float = 0.0) -> float:
    """Connections that last so long each, all lost in the end; when the last one is."""
    for seconds in lasted:
        disconnects.up(now)
        now += seconds
        disconnects.down(now)
        now += outage
    return now - outage


def drawn(rate: float, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.expovariate(rate) for _ in range(count)]


def test_before_any_is_lost_one_in_an_hour_is_supposed_without_being_sure() -> None:
    disconnects = Disconnects()
    assert disconnects.rate == pytest.approx(PRIOR)
    assert disconnects.error > 3 * disconnects.rate


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 5000)), max_size=40))
def test_the_rate_is_above_0_and_bounded(events: list[tuple[float, float]]) -> None:
    disconnects, now = Disconnects(), 0.0
    for lasted, outage in events:
        disconnects.up(now)
        now += lasted
        disconnects.passed(now - lasted / 2)
        disconnects.down(now)
        now += outage
        assert 0.0 < disconnects.rate < 100.0
        assert disconnects.error > 0.0


def test_a_connection_that_holds_makes_it_less_likely() -> None:
    disconnects, rates = Disconnects(), []
    disconnects.up(0.0)
    for minute in range(60):
        disconnects.passed(60.0 * minute)
        rates.append(disconnects.rate)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02 / 672, rel=0.05), "what is known fades as it grows: never 0"


def test_looking_more_often_changes_nothing() -> None:
    once, often = Disconnects(), Disconnects()
    for disconnects in once, often:
        connections(disconnects, 50.0, 500.0)
        disconnects.up(1000.0)
    for second in range(1000, 1300):
        often.passed(float(second))
    once.passed(1299.0)
    assert often.rate == pytest.approx(once.rate)


@pytest.mark.parametrize("rate", [1 / 10, 1 / 30, 1 / 100])
def test_a_constant_rate_is_found(rate: float) -> None:
    found = []
    for seed in range(40):
        disconnects = Disconnects()
        connections(disconnects, *drawn(rate, 60, seed))
        found.append(disconnects.rate)
        assert abs(disconnects.rate - rate) < 5 * disconnects.error
    assert sorted(found)[20] == pytest.approx(rate, rel=0.3)


def test_time_without_a_connection_does_not_count() -> None:
    short, long = Disconnects(), Disconnects()
    connections(short, 50.0, 70.0, outage=1.0)
    connections(long, 50.0, 70.0, outage=1000.0)
    assert short.rate == pytest.approx(long.rate)
    short.passed(1e6)
    short.down(1e6)
    assert short.rate == pytest.approx(long.rate)


def test_outages_are_timed_from_a_loss_to_the_next_connection() -> None:
    controller = Controller()
    controller.link.link_up(0.0)
    assert controller.link.outages.mean is None, "to come up for the first time ends no outage"
    for lost, back in ((100.0, 104.0), (200.0, 206.0)):
        controller.link.link_down(lost)
        controller.link.link_up(back)
    assert controller.link.outages.mean == pytest.approx(5.0, abs=0.1)
    assert controller.link.outages.error is not None


def test_acknowledgements_are_told_apart_by_quality_of_service() -> None:
    controller = Controller()
    for number in range(20):
        for qos, seconds in enumerate((0.0001, 0.1, 0.2)):
            controller.link.published(qos, seconds, 100, float(number))
    assert [one.mean for one in controller.link.acknowledged] == pytest.approx([0.0001, 0.1, 0.2])
    for number in range(20, 24):
        controller.link.published(1, 0.9, 100, float(number))
    assert [one.mean for one in controller.link.acknowledged] == pytest.approx([0.0001, 0.9, 0.2])


def test_what_is_large_tells_the_rate_and_not_how_fast_messages_are_acknowledged() -> None:
    controller = Controller()
    link = controller.link
    controller.link.published(0, 0.001, 100_000, 0.0)
    assert link.up.per_second is None, "that it is in the socket says nothing of the link"
    controller.link.published(1, 0.5, 100_000, 0.0)
    assert link.up.per_second == pytest.approx(200_000)
    assert all(one.mean is None for one in link.acknowledged)
    controller.link.published(1, 0.5, BIG - 1, 0.0)
    assert link.up.per_second == pytest.approx(200_000)


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 10), st.floats(0, 30)), max_size=40))
def test_of_a_link_that_does_not_change_no_rate_above_it_is_told(
    transfers: list[tuple[int, float, float]],
) -> None:
    """Each takes its bytes over a rate of 10,000 a second, and some time beside."""
    rate, now = LeastRate(BIG), 0.0
    for size, beside, passed in transfers:
        seconds = size / 10_000 + beside
        now += seconds + passed
        rate.carried(size, seconds, now)
        assert rate.per_second is None or 0.0 < rate.per_second <= 10_000 * (1 + 1e-9)


def test_the_rate_follows_a_link_that_changes() -> None:
    rate = LeastRate(BIG)
    rate.carried(20_000, 1.0, 0.0)
    rate.carried(5_000, 1.0, 1.0)
    assert rate.per_second == 20_000, "of fewer bytes the way there and back takes the most"
    rate.carried(20_000, 4.0, 5.0)
    assert rate.per_second == 5_000, "as many bytes took longer: the link got slower"
    rate.carried(6_000, 0.5, 6.0)
    assert rate.per_second == 12_000
    rate.carried(5_000, 5.0, 70.0)
    assert rate.per_second == 1_000, "after a minute the newest counts"


def test_what_comes_within_a_second_was_carried_in_one() -> None:
    controller = Controller()
    for number in range(21):
        controller.link.received(500, number / 10)
    assert controller.link.down.per_second == pytest.approx(9 * 500), "but for the first, which began before"
    controller.link.received(500, 50.0)
    assert controller.link.down.per_second == pytest.approx(9 * 500)


def test_a_message_now_and_then_says_nothing_of_the_rate() -> None:
    controller = Controller()
    for number in range(20):
        controller.link.received(500, 2.0 * number)
    assert controller.link.down.per_second is None
