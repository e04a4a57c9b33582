"""The quality of service: a channel on which each level is best, and what holds on all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.policies.cheapest_qos import CheapestQos
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.qos import best, costs

STEADY = Observation(
    rtt=0.04,
    compute=0.04,
    disconnects=1e-4,
    disconnects_error=1e-4,
    goodput_up=1e6,
    goodput_down=4e6,
    ack_times=(0.001, 0.04, None),
)
FLAPPING = replace(
    STEADY, rtt=0.7, disconnects=0.2, disconnects_error=0.05, goodput_up=3e5, goodput_down=1e6,
    ack_times=(0.001, 0.7, None),
)  # fmt: skip
CHOKED = replace(
    FLAPPING, compute=0.5, goodput_up=2e4, goodput_down=2000.0, disconnects=0.4, ack_times=(0.01, 6.0, None)
)
"""A link that breaks all the time and has seconds of data under way, all of which come again."""


@pytest.mark.parametrize("now", range(3))
@pytest.mark.parametrize(("seen", "level"), [(STEADY, 0), (FLAPPING, 1), (CHOKED, 2)])
def test_each_level_is_best_on_some_channel(seen: Observation, level: int, now: int) -> None:
    assert best(seen, now) == level


@pytest.mark.parametrize("now", range(3))
def test_it_stays_while_nothing_is_known(now: int) -> None:
    assert best(replace(STEADY, rtt=None), now) == best(replace(STEADY, disconnects=None), now) == now


@given(
    st.builds(
        Observation,
        rtt=st.floats(0.0, 3.0),
        compute=st.floats(0.001, 1.0),
        disconnects=st.floats(0.0, 2.0),
        disconnects_error=st.none() | st.floats(0.0, 1.0),
        goodput_up=st.none() | st.floats(1.0, 1e9),
        goodput_down=st.none() | st.floats(1.0, 1e9),
        ack_times=st.tuples(st.none(), st.none() | st.floats(0.0, 10.0), st.none()),
    ),
    st.integers(0, 2),
)
def test_a_choice_stands(seen: Observation, now: int) -> None:
    found = costs(seen)
    assert found is not None
    assert all(cost >= 0.0 for cost in found)
    chosen = best(seen, now)
    assert best(seen, chosen) == chosen
    assert found[chosen] <= found[now] + 0.0005


def test_a_session_begins_as_it_was_told_and_goes_on_with_what_costs_least() -> None:
    policy = CheapestQos(FixedPolicy(Plan(4, qos=1, ahead=8)))
    plans = [policy.plan(seen) for seen in (Observation(), STEADY, FLAPPING, CHOKED, STEADY)]
    assert [plan.qos for plan in plans] == [1, 0, 1, 2, 0]
    assert {replace(plan, qos=1, open_qos=None) for plan in plans} == {Plan(4, qos=1, ahead=8)}
    assert {plan.qos if plan.open_qos is None else plan.open_qos for plan in plans} == {1}
