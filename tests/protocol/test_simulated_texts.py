"""Whole texts between machines: on a clean link nothing is asked twice, and where there is too much to do all wait."""

import random
from itertools import pairwise
from unittest.mock import Mock

import pytest

from flexspec_mq import waiting
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.simulator.world import VOCAB, Cell, FakeTarget, Link, World, held, identity
from tests.protocol.builders import clean_world

LIMIT = 120


# A clean, ordered link


def clean(
    plan: Plan,
    accuracy: float,
    delay: float = 0.04,
    sessions: int = 1,
    limit: int = LIMIT,
    answer_timeout: float = waiting.ANSWER,
) -> World:
    world = clean_world(
        plan, accuracy, delay=delay, sessions=sessions, limit=limit, answer_timeout=answer_timeout
    )
    world.run(400)
    return world


@pytest.mark.parametrize(
    ("delay", "answer_timeout", "accuracy", "sessions"),
    [
        (0.004, waiting.ANSWER, 0.0, 1),
        (0.4, waiting.ANSWER, 0.0, 3),
        (0.4, waiting.ANSWER, 0.7, 1),
        (0.004, waiting.ANSWER, 1.0, 3),
        (1.0, 4.0, 0.7, 1),
    ],
)
def test_no_poll_no_reopen_no_gap(
    delay: float, answer_timeout: float, accuracy: float, sessions: int
) -> None:
    """Over a satellite the device is told how long an answer takes; docs/reference/waits.md."""
    plans = [Plan(k, width, 0, ahead) for k in (0, 4, 8) for width in (1, 2, 4) for ahead in (0, 64)]
    for plan in plans:
        world = clean(plan, accuracy, delay, sessions, 50, answer_timeout)
        worker = world.hosts[0].machine.counters
        assert (worker.gaps, worker.unknown, worker.held_dropped, worker.dropped) == (0, 0, 0, 0), plan
        assert world.most_held <= plan.in_flight, plan
        for cell in world.cells:
            world.check(cell)
            assert cell.machine.finished == "length"
            counters = cell.machine.counters
            assert (counters.polls, counters.reopens, counters.early, counters.closes) == (0, 0, 0, 1), plan
        # A verdict per forward and an accept per session: none is sent twice.
        assert worker.verdicts <= worker.items + sessions
        assert world.drained()


@pytest.mark.parametrize(("length", "rounds"), [(0, 120), (1, 61), (4, 25), (8, 15)])
def test_a_perfect_draft_takes_the_least_rounds_and_a_hopeless_one_a_round_for_each_token(
    length: int, rounds: int
) -> None:
    """The open brings one token, each batch of K then K + 1, of which the branch has the last one already."""
    world = clean(Plan(length, 1), 1.0)
    counters = world.cells[0].machine.counters
    assert counters.rounds == counters.batches == world.hosts[0].machine.counters.items == rounds
    hopeless = clean(Plan(length, 1), 0.0).cells[0].machine.counters
    assert (hopeless.rounds, hopeless.accepted) == (LIMIT, 0)


def test_streaming_pays_the_round_trip_once() -> None:
    (cell,) = clean(Plan(0, 1, 0, 64), 0.0, 0.2).cells
    assert (cell.finished_at or 400.0) < 0.4 + LIMIT * 0.051
    assert cell.machine.counters.acks <= 4


def test_several_batches_in_flight_hide_distance() -> None:
    one, two, four = (clean(Plan(4, width), 1.0, 0.2).cells[0].finished_at or 400.0 for width in (1, 2, 4))
    assert one < 400.0
    assert two < 0.65 * one
    assert four < 0.65 * two


# Where the worker runs ahead, nothing of the device's could be echoed: the round trip is asked for

STREAM = Plan(0, ahead=256, trip_age=2.0)
LONG = 400
"""Tokens of a text: some 20 s at 50 ms a forward."""


def written(plan: Plan | Policy, delay: float = 0.02) -> Cell:
    """A session of its own, after five seconds of which the link has another delay."""
    world = clean_world(plan, 0.0, limit=LONG)
    world.run(5)
    world.link.delay = delay
    world.run(400)
    (cell,) = world.cells
    world.check(cell)
    assert cell.machine.finished == "length"
    return cell


def test_it_is_asked_for_every_so_often_and_nothing_else_is_asked() -> None:
    """The answers tell it whatever the worker was at."""
    machine, never = written(STREAM).machine, written(Plan(0, ahead=256)).machine.counters
    assert machine.observation.rtt == pytest.approx(0.04, rel=0.01)
    assert machine.observation.forward == pytest.approx(0.05, rel=0.2)
    asked = machine.counters
    seconds = LONG * 0.05
    # They are credit as well, and come before that would be used up.
    assert 0.8 * seconds / 2 < asked.acks <= seconds / 2
    assert (asked.polls, asked.reopens, asked.early, asked.diverged) == (0, 0, 0, 0)
    assert asked.verdicts == never.verdicts + asked.acks, "each is answered once"


def test_a_link_that_becomes_slower_is_seen_within_two_of_its_round_trips() -> None:
    policy = Mock(wraps=FixedPolicy(STREAM))
    written(policy, 0.3)
    observed = [call.args[0] for call in policy.plan.call_args_list]
    at = {round(seen.at, 3): seen.rtt for seen in observed if None not in (seen.at, seen.rtt)}
    assert max(rtt for time, rtt in at.items() if time < 5.0) < 0.05
    # The silence has the session poll, and the first word after it has it ask again: both answers come late.
    assert min(rtt for time, rtt in at.items() if time > 5.0 + 2 * 0.6) == pytest.approx(0.6, rel=0.05)


def test_a_session_that_drafts_needs_no_questions() -> None:
    plans = Plan(4, 1, ahead=0), Plan(4, 1, ahead=0, trip_age=0.01)
    one, other = (written(plan).machine.counters for plan in plans)
    assert one == other


def test_policies_that_plan_by_it_have_it_asked_for() -> None:
    assert ClosedFormPolicy(Plan(4, ahead=8)).plan(Observation()).trip_age is not None
    assert ClosedFormPolicy(Plan(4)).plan(Observation()).trip_age is None, (
        "without look-ahead batches tell it"
    )
    with pytest.raises(UsageError, match="trip_age"):
        Plan(trip_age=0.0)


# More work than the workers can do soon: nobody fails, and nothing that was read is thrown away


def overloaded(sessions: int, *, forward: float = 0.3, workers: int = 1) -> World:
    """Prompts of 160 tokens at once at workers that read 17 tokens of them in each forward."""
    rng = random.Random(5)
    link = Link(rng, delay=0.02, jitter=0.01)
    config = WorkerConfig(worker="w", versions=("v",), facts=held(512), capacity=256)
    world = World(rng, FakeTarget(eos_every=10**9), link, workers, config, (forward, 0.0), 17)
    for number in range(1, sessions + 1):
        request = SessionRequest(
            session=number,
            version="v",
            identity=identity(seed=number, limit=20),
            prompt=tuple(rng.randrange(VOCAB) for _ in range(160)),
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


PLANS = (Plan(4, 1), Plan(4, 2, ahead=16), Plan(0, 1, ahead=64))


@pytest.mark.parametrize("hangs", ["process", "forward"])
def test_no_text_is_silent_for_long_beside_a_healthy_worker(hangs: str) -> None:
    """A worker of two hangs for 40 s, while texts are written and others are asked for."""
    worst = 0.0
    for seed in range(8):
        rng = random.Random(seed)
        link = Link(rng, delay=rng.choice((0.005, 0.04, 0.1)))
        config = WorkerConfig(worker="w", versions=("v",), facts=held(512), capacity=256)
        world = World(rng, FakeTarget(eos_every=10**9), link, 2, config)
        began: dict[int, float] = {}

        def add(world: World = world, rng: random.Random = rng, began: dict[int, float] = began) -> None:
            number = len(world.cells) + 1
            asked = identity(seed=number, limit=60)
            began[number] = world.now
            request = SessionRequest(
                session=number, version="v", identity=asked, prompt=(1, 2, number), keyed=number % 2 == 0
            )
            world.add(request, FixedPolicy(rng.choice(PLANS)), 0.6)

        for at in (*(rng.uniform(0, 2) for _ in range(4)), *(rng.uniform(2, 40) for _ in range(12))):
            world.at(at, add)
        world.run(rng.uniform(1, 3))
        stuck = world.hosts[seed % 2]
        if hangs == "process":
            world.hang(stuck, 40.0)
        else:
            world.stick(stuck)
        run_to_the_end(world, 60)
        for cell in world.cells:
            assert cell.machine.finished is FinishReason.LENGTH
            moments = [began[cell.request.session], *cell.times]
            worst = max(worst, *(later - now for now, later in pairwise(moments)))
    assert worst <= 3.0


def test_waiting_for_a_turn_has_an_end_and_says_what_it_waited_for() -> None:
    world = overloaded(30, forward=4.0)
    run_to_the_end(world, 1000)
    assert all(cell.finishes for cell in world.cells)
    failed = [cell for cell in world.cells if cell.machine.finished is FinishReason.FAILED]
    assert failed
    for cell in failed:
        assert "too much to do" in str(cell.finishes[0].error)
        assert 900 < (cell.finished_at or 0.0) < 905
