"""A few hundred random schedules of everything that can go wrong.

``FLEXSPEC_SIMULATOR_RUNS`` makes it more.
"""

from __future__ import annotations

import os

import pytest

from lab.simulator.schedules import ScheduleTally, run

RUNS = int(os.environ.get("FLEXSPEC_SIMULATOR_RUNS", "300"))


@pytest.mark.timeout(60 + RUNS)
@pytest.mark.parametrize("flips", [0.0, 0.2], ids=["exact", "near ties flip"])
def test_whatever_goes_wrong_the_text_is_right_and_ends(flips: float) -> None:
    tally = ScheduleTally()
    for seed in range(RUNS):
        run(seed, tally, flips=flips)
    # What would let this pass without having tried anything.
    assert tally.crashes > RUNS
    assert tally.edge["reopens"] > RUNS
    assert tally.edge["polls"] > RUNS
    assert tally.edge["judged"] - tally.edge["accepted"] > 5 * RUNS
    assert tally.edge["accepted"] > 5 * RUNS
    assert tally.worker["dropped"] > 0
    assert tally.worker["expired"] > 0
    assert tally.worker["run_ahead"] > RUNS
    assert tally.worker["worker_accepted"] > RUNS
    assert tally.worker["inherited"] > RUNS // 2
    assert tally.worker["need_prefix"] > RUNS // 2
    assert tally.edge["named"] > 2 * RUNS
    assert tally.edge["misses"] > RUNS // 4
    assert min(tally.finishes[reason] for reason in ("eos", "stop", "length", "cancelled", "deadline")) > 0
    assert tally.finishes["failed"] < 0.05 * tally.finishes.total()
    assert bool(tally.edge["diverged"]) == bool(flips)
