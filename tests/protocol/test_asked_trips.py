"""Where the worker runs ahead and nothing of the device's could be echoed, the round trip is asked for."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.simulator.world import Cell, FakeTarget, Link, World, held, identity

STREAM = Plan(0, ahead=256, trip_age=2.0)
LIMIT = 400
"""Tokens of a text: some 20 s at 50 ms a forward."""


class Watching:
    """Keeps to a plan, and what it sees."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.seen: list[Observation] = []

    def plan(self, seen: Observation) -> Plan:
        """As given."""
        self.seen.append(seen)
        return self._plan


def written(plan: Plan | Policy, change: Callable[[World], None] | None = None) -> Cell:
    """A session of its own over a clean link, to which something happens after five seconds."""
    rng = random.Random(7)
    world = World(
        rng,
        FakeTarget(eos_every=10**9),
        Link(rng, delay=0.02),
        1,
        WorkerConfig(worker="w", versions=held(512)),
    )
    world.early_stops = 0.0
    request = SessionRequest(session=1, version="v", identity=identity(limit=LIMIT), prompt=(1, 2, 3))
    cell = world.add(request, FixedPolicy(plan) if isinstance(plan, Plan) else plan, 0.0)
    world.run(5)
    if change is not None:
        change(world)
    world.run(400)
    world.check(cell)
    assert cell.machine.finished == "length"
    return cell


def test_it_is_asked_for_every_so_often_and_nothing_else_is_asked() -> None:
    asked, never = (written(plan).machine.counters for plan in (STREAM, Plan(0, ahead=256)))
    seconds = LIMIT * 0.05
    # They are credit as well, and come before that would be used up.
    assert 0.8 * seconds / 2 < asked.acks <= seconds / 2
    assert (asked.polls, asked.reopens, asked.early, asked.diverged) == (0, 0, 0, 0)
    assert asked.verdicts == never.verdicts + asked.acks, "each is answered once"


def test_answers_tell_the_round_trip_whatever_the_worker_was_at() -> None:
    machine = written(STREAM).machine
    assert machine.observation.rtt == pytest.approx(0.04, rel=0.01)
    assert machine.observation.forward == pytest.approx(0.05, rel=0.2)


def test_a_link_that_becomes_slower_is_seen_within_two_of_its_round_trips() -> None:
    policy = Watching(STREAM)

    def slower(world: World) -> None:
        world.link.delay = 0.3

    written(policy, slower)
    at = {round(seen.at, 3): seen.rtt for seen in policy.seen if seen.at is not None and seen.rtt is not None}
    assert max(rtt for time, rtt in at.items() if time < 5.0) < 0.05
    # The silence has the session poll, and the first word after it has it ask again: both answers come late.
    assert min(rtt for time, rtt in at.items() if time > 5.0 + 2 * 0.6) == pytest.approx(0.6, rel=0.05)


def test_a_session_that_drafts_needs_no_questions() -> None:
    plans = Plan(4, 1, ahead=0), Plan(4, 1, ahead=0, trip_age=0.01)
    one, other = (written(plan).machine.counters for plan in plans)
    assert one == other


def test_an_age_is_above_0() -> None:
    with pytest.raises(UsageError, match="trip_age"):
        Plan(trip_age=0.0)


def test_policies_that_plan_by_it_have_it_asked_for() -> None:
    assert ClosedFormPolicy(Plan(4, ahead=8)).plan(Observation()).trip_age is not None
    assert ClosedFormPolicy(Plan(4)).plan(Observation()).trip_age is None, "without run-ahead batches tell it"
