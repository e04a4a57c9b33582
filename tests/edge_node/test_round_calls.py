"""Python calls of an edge node for a round: they come back unseen if nobody counts them."""

from __future__ import annotations

import asyncio
import json
from statistics import fmean

import pytest

from lab.testbed.round_calls import CASES, Case, Meter, trace

FIXED_MOST = 300
"""Calls of ours in the mean round of a fixed plan, K = 4; 717 before the session was cut anew."""
ROUNDS = 100
DEFAULT_MOST, DEFAULT_MOST_IN_ONE = 400, 1000


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_round_makes_few_calls_and_a_round_with_a_choice_not_many_more(case: Case) -> None:
    """``pytest -s`` shows the figures of docs/performance.md."""
    traced = asyncio.run(trace(case, ROUNDS))
    ours = fmean(traced.ours)
    print(f"{case.name}: {ours:.0f} calls in the mean of {ROUNDS} rounds, {max(traced.ours)} in one")  # noqa: T201
    if case.name.startswith("fixed"):
        assert ours <= FIXED_MOST
        assert fmean(traced.every) <= 1.8 * FIXED_MOST
        assert traced.by_name["session.EdgeSession.drafted"] >= 4 * ROUNDS
    else:
        assert ours <= DEFAULT_MOST
        assert max(traced.ours) <= DEFAULT_MOST_IN_ONE
        assert traced.by_name["round_model.drafting"], "plans were compared"


def test_only_calls_in_the_block_are_counted() -> None:
    meter = Meter()
    with meter.running():
        json.dumps({"1": [2]})
        with meter.held():
            json.dumps({"1": [2]})
    once = meter.all
    assert once > 0
    assert not meter.ours
    json.dumps({"1": [2]})
    assert meter.all == once
