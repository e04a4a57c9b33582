"""On a clean, ordered link nothing is ever asked twice."""

from __future__ import annotations

import random

import pytest

from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.simulator.world import FakeTarget, Link, World, held, identity

LIMIT = 120
CONFIG = WorkerConfig(worker="w", versions=held(512))


def _world(delay: float, sessions: int, plan: Plan, accuracy: float, limit: int = LIMIT) -> World:
    rng = random.Random(7)
    world = World(rng, FakeTarget(eos_every=10**9), Link(rng, delay=delay), 1, CONFIG)
    world.early_stops = 0.0
    for number in range(1, sessions + 1):
        request = SessionRequest(
            session=number, version="v", identity=identity(seed=number, limit=limit), prompt=(1, 2, number)
        )
        world.add(request, FixedPolicy(plan), accuracy)
    world.run(400)
    return world


@pytest.mark.parametrize("sessions", [1, 3])
@pytest.mark.parametrize("delay", [0.004, 0.04, 0.4])
@pytest.mark.parametrize("accuracy", [0.0, 0.6, 0.95, 1.0])
def test_no_poll_no_reopen_no_gap(delay: float, accuracy: float, sessions: int) -> None:
    for length in (0, 4, 8):
        for in_flight in (1, 2, 4):
            for ahead in (0, 64):
                plan = Plan(length, in_flight, 0, ahead)
                world = _world(delay, sessions, plan, accuracy, 50)
                worker = world.hosts[0].machine.counters
                assert (worker.gaps, worker.unknown, worker.held_dropped, worker.dropped) == (0, 0, 0, 0), (
                    plan
                )
                assert world.most_held <= in_flight, plan
                for cell in world.cells:
                    world.check(cell)
                    assert cell.machine.finished == "length"
                    counters = cell.machine.counters
                    assert (counters.polls, counters.reopens, counters.early) == (0, 0, 0), plan
                    assert counters.closes == 1
                # One verdict per forward and one hello per session: none is sent twice.
                assert worker.verdicts <= worker.items + sessions
                assert world.drained()


@pytest.mark.parametrize(("length", "rounds"), [(0, 120), (1, 61), (4, 25), (8, 15)])
def test_a_perfect_draft_takes_the_least_rounds(length: int, rounds: int) -> None:
    """The open brings one token, each batch of K then K + 1, of which the branch has the last one already."""
    world = _world(0.04, 1, Plan(length, 1), 1.0)
    counters = world.cells[0].machine.counters
    assert counters.rounds == rounds
    assert counters.batches == rounds
    assert world.hosts[0].machine.counters.items == rounds


@pytest.mark.parametrize("length", [0, 1, 4, 8])
def test_a_hopeless_draft_costs_one_round_per_token(length: int) -> None:
    world = _world(0.04, 1, Plan(length, 1), 0.0)
    assert world.cells[0].machine.counters.rounds == LIMIT
    assert world.cells[0].machine.counters.accepted == 0


def test_streaming_pays_the_round_trip_once() -> None:
    slow = _world(0.2, 1, Plan(0, 1, 0, 64), 0.0)
    finished = slow.cells[0].finished_at
    assert finished is not None
    assert finished < 0.4 + LIMIT * 0.051
    assert slow.cells[0].machine.counters.acks <= 4


def test_several_batches_in_flight_hide_distance() -> None:
    times = [_world(0.2, 1, Plan(4, width), 1.0).cells[0].finished_at for width in (1, 2, 4)]
    assert all(at is not None for at in times)
    one, two, four = (at or 0.0 for at in times)
    assert two < 0.65 * one
    assert four < 0.65 * two
