"""More work than the workers can do soon: everyone waits, nobody fails, and nothing that was read is thrown away."""

from __future__ import annotations

import random

from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.simulator.world import VOCAB, FakeTarget, Link, World, held, identity

PROMPT = 160
CONFIG = WorkerConfig(worker="w", versions=held(512), capacity=256)


def overloaded(sessions: int, *, reading: int = 17, forward: float = 0.3, workers: int = 1) -> World:
    """`sessions` prompts at once at workers that read `reading` tokens of them in each forward."""
    rng = random.Random(5)
    link = Link(rng, delay=0.02, jitter=0.01)
    world = World(rng, FakeTarget(eos_every=10**9), link, workers, CONFIG, (forward, 0.0), reading)
    for number in range(1, sessions + 1):
        request = SessionRequest(
            session=number,
            version="v",
            identity=identity(seed=number, limit=20),
            prompt=tuple(rng.randrange(VOCAB) for _ in range(PROMPT)),
        )
        world.add(request, FixedPolicy(Plan(4, 1)), 0.6)
    return world


def run_to_the_end(world: World, bound: float) -> None:
    while world.step(bound) and not all(cell.finishes for cell in world.cells):
        pass
    for cell in world.cells:
        world.check(cell)


def test_a_prompt_that_waits_behind_others_is_never_opened_again() -> None:
    world = overloaded(60)
    # Reading alone takes 60 · 160 / 17 forwards of 0.3 s: 170 s, more than every timer that knows of no queue.
    run_to_the_end(world, 400)
    assert [cell.machine.finished for cell in world.cells] == [FinishReason.LENGTH] * 60
    assert sum(cell.machine.counters.reopens for cell in world.cells) == 0
    last = max(cell.finished_at or 0.0 for cell in world.cells)
    assert 170 < last < 190
    for cell in world.cells:
        assert cell.machine.counters.polls <= 6 + (cell.finished_at or 0.0) / 4, "waiting costs few questions"


def test_a_worker_whose_forward_hangs_is_left_although_it_answers() -> None:
    world = overloaded(1, workers=2)
    while world.cells[0].machine.worker is None:
        world.step(10)
    (stuck,) = (host for host in world.hosts if host.name == world.cells[0].machine.worker)
    stuck.busy = True  # for ever: its loop answers, its engine does not come back
    stuck.life += 1
    run_to_the_end(world, 400)
    cell = world.cells[0]
    assert cell.machine.finished is FinishReason.LENGTH
    assert cell.machine.counters.reopens >= 1
    # Ten seconds until the worker says no more that it is at work, and twenty without a token after that.
    assert 30 < (cell.finished_at or 0.0) < 60


def test_waiting_for_a_turn_has_an_end_and_says_what_it_waited_for() -> None:
    world = overloaded(60, forward=2.0)
    run_to_the_end(world, 1000)
    assert all(cell.finishes for cell in world.cells)
    failed = [cell for cell in world.cells if cell.machine.finished is FinishReason.FAILED]
    assert failed
    for cell in failed:
        assert "too much to do" in str(cell.finishes[0].error)
        assert 900 < (cell.finished_at or 0.0) < 905
