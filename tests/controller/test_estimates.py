"""Estimates by name: each is documented, and is what was observed and measured, in its unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimates import estimates
from flexspec_mq.controller.observation import LinkView, Observation
from flexspec_mq.controller.qos import qos_costs
from tests.controller.observed import NEAR, but

DOCUMENT = Path(__file__).parents[2] / "docs" / "controller.md"


def test_they_are_what_was_observed_and_measured_in_their_units() -> None:
    node = Controller()
    worker, version = node.worker("w", 0.0), node.version("v", 0.0)
    for number in range(4):
        worker.round_trip.update(0.02 + 0.001 * number, float(number))
        worker.queue.update(0.01, float(number))
        node.draft_time.update(0.0045, float(number))
        node.link.published(1, 0.3, 100, float(number))
        version.acceptance.judged([(0, 2)], float(number), wrong=True)
    seen = but(NEAR, sessions=2, draft_time=0.009, link=LinkView(disconnects=1e-4), worker_per_verdict=1.5)
    told = estimates(seen, worker, version, node)
    for name, value, unit in (
        ("rtt", 20.0, "ms"),
        ("queue_mean", 10.0, "ms"),
        ("forward", 40.0, "ms"),
        ("row_cost", 1.0, "ms"),
        ("draft_time", 9.0, "ms per token"),
        ("worker_drafted", 1.5, "tokens per verdict"),
        ("ack_time_1", 300.0, "ms"),
        ("disconnects", 3600 * node.link.disconnects.rate, "per hour"),
    ):
        assert told[name].unit == unit
        assert told[name].value == pytest.approx(value)
    assert told["rtt"].error == pytest.approx(1000 * (worker.round_trip.error or 0.0))
    assert told["draft_time"].error == pytest.approx(2000 * (node.draft_time.error or 0.0))
    assert told["acceptance_1"].tries == version.acceptance.known[0] > 3
    assert told["ack_time_0"].value is None
    costs = qos_costs(seen)
    assert costs is not None
    assert [told[f"qos_cost_{level}"].value for level in range(3)] == pytest.approx(
        [1000 * cost for cost in costs]
    )


def test_each_is_documented_and_unknown_at_first() -> None:
    node = Controller()
    told = estimates(Observation(), node.worker("w", 0.0), node.version("v", 0.0), node)
    text = DOCUMENT.read_text()
    assert [name for name in told if f"`{name}`" not in text] == []
    unknown = [name for name, one in told.items() if one.value is None]
    assert set(told) - set(unknown) == {
        "disconnects", "queueing_delay", *(f"acceptance_{place}" for place in (1, 2, 3, 4)),
    }  # fmt: skip
