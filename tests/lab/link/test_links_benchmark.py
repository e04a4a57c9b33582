"""What `lab.benchmarks.links` computes and measures."""

from __future__ import annotations

import math

import pytest

from lab.benchmarks.links import Seconds, measure
from lab.benchmarks.links_probe import IP_UDP, rate_of
from tests.lab.link.plans import figures, needs_namespaces, plan

pytestmark = pytest.mark.alone


def test_the_rate_is_taken_after_the_first_moments() -> None:
    slow = [0.01 * tick for tick in range(30)]
    steady = [0.31 + 0.001 * tick for tick in range(100)]
    assert rate_of({"times": slow + steady, "size": 972}) == pytest.approx((972 + IP_UDP) * 8 * 1000)
    assert math.isnan(rate_of({"times": [0.0, 0.1], "size": 972}))


@needs_namespaces
def test_a_link_is_measured_both_ways() -> None:
    one = figures(delay=30, jitter=1, rate=4, loss=10)
    rows = measure("test", plan(one).profile, 3, Seconds(0.5, 0.3, 0.8, 0.0))
    assert [row["way"] for row in rows] == ["up", "down"]
    for row in rows:
        assert row["delay_ms_least"] >= 30
        assert row["loss_percent_interval"][0] <= 10 <= row["loss_percent_interval"][1]
        assert row["rate_mbit"] <= 4.05, "a link is never faster than it says"
        assert row["packets"] > 100
