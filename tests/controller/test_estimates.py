"""Estimates by name: each is documented, and is what was observed, in its unit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller import qos
from flexspec_mq.controller.estimates import estimates
from flexspec_mq.controller.plan import Observation

DOCUMENT = Path(__file__).parents[2] / "docs" / "controller.md"
FACTORS = {"ms": 1000.0, "ms per token": 1000.0, "ms per round": 1000.0, "per hour": 3600.0}

times = st.none() | st.floats(0.0, 10.0)
observations = st.builds(
    Observation,
    rtt=times,
    rtt_error=times,
    compute=st.floats(0.0, 0.5),
    queue_mean=times,
    compute_mean=times,
    forward=times,
    row_cost=times,
    draft_time=times,
    draft_time_error=times,
    own_tokens=st.none() | st.floats(1.0, 9.0),
    worker_verdicts=st.integers(0, 3),
    worker_drafted=st.floats(0.0, 8.0),
    granted=st.none() | st.integers(0, 8),
    rate=times,
    disconnects=st.none() | st.floats(0.0, 0.1),
    disconnects_error=st.none() | st.floats(0.0, 0.1),
    outage=times,
    acceptance=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
    acceptance_known=st.lists(st.floats(0.0, 50.0), min_size=1, max_size=16).map(tuple),
    ack_times=st.tuples(times, times, times),
)


@given(observations)
def test_they_are_what_was_observed(seen: Observation) -> None:
    told = estimates(seen)
    named = {
        name: (getattr(seen, name), getattr(seen, f"{name.removesuffix('_mean')}_error", None))
        for name in told
        if hasattr(seen, name) and name != "worker_drafted"
    }
    assert len(named) >= 15
    for name, (value, error) in named.items():
        one, factor = told[name], FACTORS.get(told[name].unit, 1.0)
        assert one.value == (None if value is None else pytest.approx(factor * value))
        assert one.error == (None if error is None else pytest.approx(factor * error))
    drafted = told["worker_drafted"].value
    assert drafted == (seen.worker_drafted if seen.worker_verdicts else None)
    for place in range(4):
        one = told[f"acceptance_{place + 1}"]
        assert one.value == seen.acceptance[min(place, len(seen.acceptance) - 1)]
        assert one.tries == seen.acceptance_known[min(place, len(seen.acceptance_known) - 1)]
    costs = [told[f"qos_cost_{level}"].value for level in range(3)]
    found = qos.costs(seen)
    assert costs == ([None] * 3 if found is None else pytest.approx([1000 * cost for cost in found]))
    assert [told[f"ack_time_{level}"].value for level in range(3)] == [
        None if one is None else pytest.approx(1000 * one) for one in seen.ack_times
    ]


def test_each_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in estimates(Observation()) if f"`{name}`" not in text] == []
