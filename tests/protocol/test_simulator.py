"""Hundreds of random schedules of everything that can go wrong, and the clock by which they run.

``FLEXSPEC_SIMULATOR_RUNS`` makes it more.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.simulator.clock import Alarm, SimulatedClock
from lab.simulator.schedules import PLANS, ScheduleTally, run
from schemas.messages import MAX_AHEAD, MAX_ANSWERS

RUNS = int(os.environ.get("FLEXSPEC_SIMULATOR_RUNS", "60"))


@pytest.mark.timeout(600 + RUNS)
@pytest.mark.parametrize("flips", [0.0, 0.2], ids=["exact", "near ties flip"])
def test_whatever_goes_wrong_the_text_is_right_and_ends(flips: float) -> None:
    tally = ScheduleTally()
    for seed in range(RUNS):
        world = run(seed, tally, flips=flips)
        most = MAX_ANSWERS - MAX_AHEAD + max(plan.ahead for plan in PLANS)
        assert all(answers <= most * world.asked[key] for key, answers in world.answered.items())
    # Least counts of events: without them this could pass without having tried anything.
    assert tally.crashes > RUNS
    assert tally.edge["reopens"] > RUNS
    assert tally.edge["polls"] > RUNS
    assert tally.edge["judged"] - tally.edge["accepted"] > 5 * RUNS
    assert tally.edge["accepted"] > 5 * RUNS
    assert tally.worker["dropped"] > 0
    assert tally.worker["expired"] > 0
    assert tally.worker["look_ahead"] > RUNS
    assert tally.worker["worker_accepted"] > RUNS
    assert tally.worker["inherited"] > RUNS // 2
    assert tally.worker["need_prefix"] > RUNS // 2
    assert tally.edge["named"] > 2 * RUNS
    assert tally.edge["misses"] > RUNS // 4
    assert min(tally.finishes[reason] for reason in ("eos", "stop", "length", "cancelled", "deadline")) > 0
    assert tally.finishes["failed"] < 0.05 * tally.finishes.total()
    assert bool(tally.edge["diverged"]) == bool(flips)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_what_is_due_happens_in_the_order_of_its_time_and_then_of_asking(delays: list[float]) -> None:
    clock, seen = SimulatedClock(), list[tuple[float, int]]()
    for number, delay in enumerate(delays):
        clock.at(delay, lambda number=number: seen.append((clock.now, number)))  # type: ignore[misc]
    while clock.step():
        pass
    assert seen == sorted((delay, number) for number, delay in enumerate(delays))


@given(st.lists(st.floats(0, 100) | st.none(), min_size=1, max_size=20))
def test_an_alarm_rings_once_at_the_earliest_time_that_was_asked_for(times: list[float | None]) -> None:
    clock, rang = SimulatedClock(), list[float]()
    alarm = Alarm(clock, lambda: rang.append(clock.now))
    for due in times:
        alarm.by(due)
    while clock.step():
        pass
    assert rang == sorted(due for due in times if due is not None)[:1]
    alarm.by(clock.now - 1.0)
    clock.step()
    assert len(rang) == 1 + any(due is not None for due in times)
