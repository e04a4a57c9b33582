"""The quality of service: a channel on which each level is best, and what holds on all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import LinkView, Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.qos import cheapest_qos, qos_costs
from tests.controller.observed import but

STEADY = Observation(rtt=0.04, forward=0.04, link=LinkView(disconnects=2e-4, ack_time=0.04, up=1e6, down=4e6))
FLAPPING = Observation(rtt=0.7, forward=0.04, link=LinkView(disconnects=0.25, ack_time=0.7, up=3e5, down=1e6))
CHOKED = Observation(rtt=0.7, forward=0.5, link=LinkView(disconnects=0.45, ack_time=6.0, up=2e4, down=2000.0))
"""A link that breaks all the time and has seconds of data under way, all of which come again."""


@pytest.mark.parametrize("now", range(3))
@pytest.mark.parametrize(("seen", "level"), [(STEADY, 0), (FLAPPING, 1), (CHOKED, 2)])
def test_each_level_is_best_on_some_channel(seen: Observation, level: int, now: int) -> None:
    assert cheapest_qos(seen, now) == level


@pytest.mark.parametrize("now", range(3))
def test_it_stays_while_nothing_is_known(now: int) -> None:
    assert cheapest_qos(but(STEADY, rtt=None), now) == now
    assert cheapest_qos(but(STEADY, link_disconnects=None), now) == now


@given(
    st.builds(
        Observation,
        rtt=st.floats(0.0, 3.0),
        forward=st.floats(0.001, 1.0),
        link=st.builds(
            LinkView,
            disconnects=st.floats(0.0, 2.0),
            ack_time=st.none() | st.floats(0.0, 10.0),
            up=st.none() | st.floats(1.0, 1e9),
            down=st.none() | st.floats(1.0, 1e9),
        ),
    ),
    st.integers(0, 2),
)
def test_a_choice_stands(seen: Observation, now: int) -> None:
    costs = qos_costs(seen)
    assert costs is not None
    assert all(cost >= 0.0 for cost in costs)
    chosen = cheapest_qos(seen, now)
    assert cheapest_qos(seen, chosen) == chosen
    assert costs[chosen] <= costs[now] + 0.0005


def test_a_session_begins_as_it_was_told_and_goes_on_with_what_costs_least() -> None:
    policy = ClosedFormPolicy(Plan(4, qos=1, ahead=8), choose_qos=True)
    plans = [policy.plan(seen) for seen in (Observation(), STEADY, FLAPPING, CHOKED, STEADY)]
    assert [plan.qos for plan in plans] == [1, 0, 1, 2, 0]
    assert {plan.qos if plan.open_qos is None else plan.open_qos for plan in plans} == {1}
    policy = ClosedFormPolicy(Plan(4, qos=2, ahead=8))
    assert {policy.plan(seen).qos for seen in (Observation(), STEADY, FLAPPING)} == {2}
