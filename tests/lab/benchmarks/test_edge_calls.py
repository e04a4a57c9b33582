"""What a round costs an edge in Python calls: they come back unseen if nobody counts them."""

from __future__ import annotations

import asyncio
import json

import pytest

from lab.benchmarks import edge_calls
from lab.benchmarks.edge_calls import CASES, Case, Meter, trace

REVIEWED = {
    "all accepted, one token at a time": (717, 1271),
    "the second is wrong": (702, 1255),
    "all accepted, four at a time": (576, 835),
}
"""Before the session was cut anew, counted in the same way: calls of ours, and of all."""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_round_costs_little_more_than_a_third_of_what_it_did(case: Case) -> None:
    ours, every, by_name = asyncio.run(trace(case, 30))
    before = REVIEWED[case.name]
    # Of four at a time much less was spent on asking for each. A round feeds a dozen estimates, and plans from them.
    most = 0.38 if case.drafter.at_once == 1 else 0.43
    assert ours <= most * before[0]
    assert every <= (most + 0.02) * before[1]  # how often the loop wakes is a matter of timing: 3 to 5 calls
    assert by_name["session.EdgeSession.drafted"] >= 4 * 30


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


def test_it_ends_with_its_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_calls, "CASES", CASES[:1])
    assert edge_calls.main(["--quick", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    results = json.loads(lines[-1])["results"]
    assert results[CASES[0].name]["ours"] < results[CASES[0].name]["all"]
    assert lines[0].startswith(CASES[0].name)
