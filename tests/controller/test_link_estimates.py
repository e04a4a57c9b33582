"""The way to the broker: how often it breaks, and the quality of service that this makes the cheaper."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.adaptive import cheapest_qos
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.link import LARGE, Bandwidth, Disconnects
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from tests.controller.observed import but

STEADY = Observation(rtt=0.04, forward=0.04, disconnects=2e-4)
FLAPPING = Observation(rtt=0.7, forward=0.04, disconnects=0.25)


def connections(disconnects: Disconnects, *lasted: float, outage: float = 1.0, now: float = 0.0) -> float:
    """Connections that last so long each, all lost in the end; when the last one is."""
    for seconds in lasted:
        disconnects.link_up(now)
        now += seconds
        disconnects.link_down(now)
        now += outage
    return now - outage


def test_before_any_is_lost_one_in_an_hour_is_supposed_without_being_sure() -> None:
    disconnects = Disconnects()
    assert disconnects.rate == pytest.approx(1 / 3600)
    assert disconnects.error > 3 * disconnects.rate


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 5000)), max_size=40))
def test_the_rate_is_above_0_and_bounded(events: list[tuple[float, float]]) -> None:
    disconnects, now = Disconnects(), 0.0
    for lasted, outage in events:
        disconnects.link_up(now)
        now += lasted
        disconnects.received(now - lasted / 2)
        disconnects.link_down(now)
        now += outage
        assert 0.0 < disconnects.rate < 100.0
        assert disconnects.error > 0.0


def test_a_connection_that_holds_makes_it_less_likely_however_often_one_looks() -> None:
    disconnects, often, rates = Disconnects(), Disconnects(), []
    disconnects.link_up(0.0)
    often.link_up(0.0)
    for minute in range(1, 61):
        disconnects.received(60.0 * minute)
        rates.append(disconnects.rate)
        for tenth in range(600):
            often.received(60.0 * (minute - 1) + tenth / 10)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02 / 672, rel=0.05), "what is known fades as it grows: never 0"
    assert often.rate == pytest.approx(rates[-1], rel=0.01)


@pytest.mark.parametrize("rate", [1 / 10, 1 / 30, 1 / 100])
def test_a_constant_rate_is_found(rate: float) -> None:
    rates = []
    for seed in range(40):
        disconnects, rng = Disconnects(), random.Random(seed)
        connections(disconnects, *(rng.expovariate(rate) for _ in range(60)))
        rates.append(disconnects.rate)
        assert abs(disconnects.rate - rate) < 5 * disconnects.error
    assert sorted(rates)[20] == pytest.approx(rate, rel=0.3)


def test_time_without_a_connection_does_not_count() -> None:
    short, long = Disconnects(), Disconnects()
    connections(short, 50.0, 70.0, outage=1.0)
    connections(long, 50.0, 70.0, outage=1000.0)
    assert short.rate == pytest.approx(long.rate)
    short.received(1e6)
    short.link_down(1e6)
    assert short.rate == pytest.approx(long.rate)


def test_bandwidth_is_the_most_that_was_seen_until_as_much_takes_longer() -> None:
    up = Bandwidth()
    up.carried(10_000, 0.1, 1.0)
    up.carried(5_000, 0.5, 2.0)
    assert up.per_second == 100_000, "a smaller transfer that takes longer says nothing"
    up.carried(10_000, 0.5, 3.0)
    assert up.per_second == 20_000, "the link became slower"
    up.carried(100, 0.1, 100.0)
    assert up.per_second == 1_000, "what was seen a minute ago is forgotten"


def test_bandwidth_down_counts_what_a_second_brings_behind_its_first_message() -> None:
    down = Bandwidth()
    for at in (0.0, 0.3, 0.6, 1.2):
        down.received(500, at)
    assert down.per_second == 1_000


def test_bandwidth_up_is_that_of_large_messages_which_are_acknowledged() -> None:
    for qos, size, seen in ((0, LARGE, None), (1, LARGE - 1, None), (1, LARGE, 2 * LARGE)):
        node = Controller()
        node.published(qos, size, 0.5, 1.0)
        assert node.up.per_second == seen


def test_a_narrow_link_makes_acknowledgements_dearer() -> None:
    seen = but(FLAPPING, forward=0.5, disconnects=0.02)
    assert cheapest_qos(seen, 0) == 1
    assert cheapest_qos(but(seen, bandwidth_up=9e3, bandwidth_down=9e3), 1) == 0
    assert cheapest_qos(but(seen, bandwidth_down=500.0), 0) == 1, "so little is what the session itself sends"


@pytest.mark.parametrize("now", range(2))
def test_connections_that_break_often_are_worth_acknowledgements(now: int) -> None:
    assert cheapest_qos(STEADY, now) == 0
    assert cheapest_qos(FLAPPING, now) == 1
    for unknown in (but(FLAPPING, rtt=None), but(STEADY, forward=0.0)):
        assert cheapest_qos(unknown, now) == now


@given(st.floats(0.0, 3.0), st.floats(0.001, 1.0), st.floats(0.0, 2.0), st.integers(0, 1))
def test_a_choice_stands(rtt: float, forward: float, disconnects: float, now: int) -> None:
    seen = Observation(rtt=rtt, forward=forward, disconnects=disconnects)
    chosen = cheapest_qos(seen, now)
    assert cheapest_qos(seen, chosen) == chosen
    assert cheapest_qos(but(seen, disconnects=2 * disconnects), chosen) >= chosen


def test_a_session_begins_as_it_was_told_and_goes_on_with_what_costs_least() -> None:
    policy = ClosedFormPolicy(Plan(4, qos=1, ahead=8), choose_qos=True)
    plans = [policy.plan(seen) for seen in (Observation(), STEADY, FLAPPING, STEADY)]
    assert [plan.qos for plan in plans] == [1, 0, 1, 0]
    assert {plan.qos if plan.open_qos is None else plan.open_qos for plan in plans} == {1}
    policy = ClosedFormPolicy(Plan(4, qos=2, ahead=8))
    assert {policy.plan(seen).qos for seen in (Observation(), STEADY, FLAPPING)} == {2}
