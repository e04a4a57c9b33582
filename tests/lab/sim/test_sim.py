"""The simulated system: its histories are their seeds', and keep the rules."""

from collections.abc import Iterator

import pytest

from lab.sim.__main__ import Runs
from lab.sim.disk import memory_folder, recorded
from lab.sim.schedule import Ask, Fault, Schedule, drawn, shrink


@pytest.fixture
def runs() -> Iterator[Runs]:
    with recorded() as recording, memory_folder() as disk:
        yield Runs(recording, disk)


def test_a_seed_has_one_history(runs: Runs) -> None:
    schedule = max(map(drawn, range(20)), key=lambda each: len(each.steps))
    first, second = (
        [note._replace(what=note.what.partition(" in /")[0]) for note in runs.run(schedule).notes]
        for _ in range(2)
    )
    assert first == second


def test_histories_keep_the_rules(runs: Runs) -> None:
    for seed in range(24):
        history = runs.run(drawn(seed))
        assert not history.verdict, f"python -m lab.sim --seed {seed}"
    assert runs.texts == 24 * 16
    assert runs.counts["answers"] > runs.texts / 2


@pytest.mark.parametrize(
    "seed",
    [84],  # a request was still being admitted when its device ended, and was written without a link
)
def test_histories_that_broke_a_rule_keep_all(runs: Runs, seed: int) -> None:
    assert not runs.run(drawn(seed)).verdict


def test_a_schedule_shrinks_to_what_fails() -> None:
    steps = [Fault(float(at), "d1", "reset") for at in range(20)]
    culprits = {steps[3], steps[17]}
    short, runs = shrink(Schedule(1, tuple(steps)), lambda each: culprits <= set(each.steps))
    assert set(short.steps) == culprits
    assert runs < 100


def test_steps_are_told_in_words() -> None:
    asks = Ask(1.0, "d1", 7, "hold", 12, 30.0, 2.0, 5.0)
    assert str(asks).endswith("asks d1 for text 7 (hold, 12 tokens)")
    assert str(Fault(2.0, "w1", "power", 3.0)).endswith("w1 loses power for 3.0 s")
