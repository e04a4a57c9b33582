"""Random schedules of everything that can go wrong, from a seed."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypedDict

from flexspec_mq.controller.plan import Plan
from flexspec_mq.protocol.edge.types import EdgeCounters, SessionRequest
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.protocol.worker.session import MOST_HELD
from flexspec_mq.protocol.worker.types import WorkerConfig, WorkerCounters
from lab.simulator.world import VOCAB, Cell, ChangingPolicy, FakeTarget, Host, Link, World, held, identity

FAULTS_END = 60.0
BOUND = 150.0
"""Seconds of simulated time within which every session must finish once the faults have ended."""
_CONTEXT = 1024

PLANS = [
    Plan(k, w, q, a, worker_draft=d, trip_age=t)
    for k in (0, 1, 4, 8)
    for w in (1, 2, 4)
    for q in (0, 1)
    for a, d, t in ((0, 0, None), (0, 0, None), (12, 0, None), (12, 3, 0.2), (64, 0, 1.0), (64, 8, None))
]


@dataclass
class ScheduleTally:
    """Counts over a number of runs, to prove that they saw something."""

    crashes: int = 0
    finishes: Counter[str] = field(default_factory=Counter)
    edge: Counter[str] = field(default_factory=Counter)
    worker: Counter[str] = field(default_factory=Counter)


class User(TypedDict):
    """How a user waits for a session; see `Patience`."""

    deadline: float | None
    fallback: Callable[[], int] | None


def user(rng: random.Random, now: float) -> User:
    """A user of any kind."""
    most = rng.choice((5, 40, 200))
    return User(
        deadline=now + rng.uniform(0.1, 40) if rng.random() < 0.1 else None,
        fallback=rng.choice((None, lambda: most)),
    )


def request(rng: random.Random, session: int, target: FakeTarget) -> SessionRequest:
    """A session of any kind; some go on with what an earlier one committed."""
    limit = rng.choice((1, 2, 5, 20, 60, 120))
    stop = rng.choice((None, None, rng.randrange(VOCAB - 1)))
    base = SessionRequest(
        session=session,
        version="v",
        identity=identity(seed=rng.randrange(2**64), limit=limit, ignore_eos=rng.random() < 0.5),
        prompt=tuple(rng.randrange(VOCAB) for _ in range(rng.randrange(1, 5))),
        finish_at=None if stop is None else lambda tokens: len(tokens) if tokens[-1] == stop else None,
    )
    base = replace(base, keyed=rng.random() < 0.5)
    if target.flips or rng.random() < 0.8:
        return base
    truth, _ = target.text(base)
    return replace(base, committed=truth[: rng.randrange(len(truth) + 1)])


def build(rng: random.Random, *, flips: float) -> World:
    """A world of any kind, without sessions."""
    link = Link(
        rng,
        delay=rng.choice((0.005, 0.04, 0.3, 1.5)),
        jitter=rng.choice((0.0, 0.05, 0.5)),
        loss=rng.choice((0.0, 0.02, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.05, 0.3)),
        late=rng.choice((0.0, 0.02, 0.1)),
    )
    config = WorkerConfig(
        worker="w",
        versions=("v",),
        facts=held(_CONTEXT),
        capacity=rng.choice((1, 2, 8)),
        room=rng.choice((None, 128, 256)),
        prefixes=rng.choice((0, 1, 4)),
        prefix_ttl=rng.choice((2.0, 30.0)),
        lease=rng.choice((3, 30)),
    )
    target = FakeTarget(flips=flips, rng=random.Random(rng.random()), forced=rng.choice((0.0, 0.0, 0.5)))
    forward = rng.choice(((0.02, 0.001), (0.05, 0.001), (0.4, 0.02)))
    reading = rng.choice((None, None, 1, 3))
    world = World(rng, target, link, rng.randint(1, 3), config, forward, reading)
    world.cuts = rng.choice((0.0, 0.3))
    return world


def go_on(world: World, cell: Cell, rng: random.Random) -> SessionRequest | None:
    """The next turn after a session: its text or a part of it, and a few tokens more. None if there is no room."""
    text = (*cell.request.prompt, *cell.shown)
    kept = rng.choice((len(text), len(text), rng.randint(1, len(text))))
    prompt = (*text[:kept], *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 4))))
    base = request(rng, len(world.cells) + 1, world.target)
    limit = min(base.identity.limit, (world.config.room or _CONTEXT) - len(prompt))
    if limit < 1:
        return None
    return replace(
        base,
        identity=identity(seed=base.identity.sampling.seed, limit=limit, ignore_eos=base.identity.ignore_eos),
        prompt=prompt,
        committed=(),
        reuse=world.prefixes.offer("v", prompt, world.now),
    )


def _more_turns(world: World, rng: random.Random, plans: list[Plan]) -> None:
    """After some sessions comes another one that goes on from them, at once or later than a worker keeps them."""

    def begin(cell: Cell) -> None:
        wanted = go_on(world, cell, rng)
        if wanted is not None and world.now < FAULTS_END:
            accuracy = rng.choice((0.0, 0.6, 1.0))
            world.add(wanted, ChangingPolicy(plans, rng), accuracy, **user(rng, world.now))

    def finished(cell: Cell) -> None:
        if len(world.cells) < 12 and rng.random() < 0.7:
            world.at(rng.choice((0.0, 0.01, 1.0, 5.0, 35.0)), lambda: begin(cell))

    world.finished = finished


def _cancel(world: World) -> None:
    """Once in a while, the user of a session has enough of it."""
    cell = world.rng.choice(world.cells)
    if world.rng.random() < 0.3:
        world.edge(cell, cell.machine.cancel(world.now))


def _drop_half(world: World, host: Host) -> None:
    """No room: half of what the engine holds is dropped, and read again."""
    for key in world.rng.sample(sorted(host.cached), len(host.cached) // 2):
        del host.cached[key]


def _fault(world: World) -> None:
    rng = world.rng
    host = rng.choice(world.hosts)
    match rng.randrange(9):
        case 0 | 1:
            world.crash(host)
        case 2:
            world.hang(host, rng.uniform(0.2, 15))
        case 3:
            world.set_link(up=False)
            world.at(rng.uniform(0.1, 10), lambda: world.set_link(up=True))
        case 4 if len(world.hosts) > 1:
            host.machine.drain(world.now)
            host.subscribed = False
            world.at(rng.uniform(1, 10), lambda: _replace(world, host.name))
        case 5:
            _cancel(world)
        case 6:
            host.subscribed = False
            world.at(rng.uniform(0.5, 5), lambda: setattr(host, "subscribed", True))
        case 7:
            _drop_half(world, host)
        case _:
            for cell in world.cells:
                world.gone(cell, host.name)


def _replace(world: World, name: str) -> None:
    host = next(h for h in world.hosts if h.name == name)
    world.crash(host)
    host.subscribed = True


def run(seed: int, tally: ScheduleTally, *, flips: float = 0.0) -> World:
    """Run a schedule: sessions, faults for a minute, then peace; every check on the way."""
    rng = random.Random(seed)
    world = build(rng, flips=flips)
    _more_turns(world, rng, rng.sample(PLANS, 3))
    for session in range(rng.randint(1, 4)):
        at = rng.uniform(0, 5)
        plans = rng.sample(PLANS, rng.randint(1, 4))
        wanted, waits = request(rng, 1000 + session, world.target), user(rng, at)
        accuracy, pace = rng.choice((0.0, 0.6, 0.9, 1.0)), rng.choice((0.002, 0.008, 0.02))

        def begin(
            wanted: SessionRequest = wanted,
            waits: User = waits,
            plans: list[Plan] = plans,
            accuracy: float = accuracy,
            pace: float = pace,
        ) -> None:
            world.add(wanted, ChangingPolicy(plans, rng), accuracy, pace, **waits)

        world.at(at, begin)
    for _ in range(rng.choice((0, 2, 8, 20))):
        world.at(rng.uniform(5, FAULTS_END), lambda: _fault(world))
    while world.step(FAULTS_END):
        pass
    _heal(world)
    end = FAULTS_END + BOUND
    while world.step(end) and not all(cell.finishes for cell in world.cells):
        pass
    for cell in world.cells:
        world.check(cell)
        assert cell.finishes, f"session {cell.request.session} is unfinished"
        _check_finish(cell)
    world.run(200)  # leases end, late copies arrive
    for cell in world.cells:
        world.check(cell)
    assert world.drained(), "a worker still holds something"
    assert world.most_held <= MOST_HELD
    count(world, tally)
    return world


def _heal(world: World) -> None:
    world.link.heal()
    world.link.delay = min(world.link.delay, 0.05)
    world.forward_time = (0.02, 0.001)
    for host in world.hosts:
        if host.hung or host.machine.draining:
            world.crash(host)
        host.subscribed = True
    world.set_link(up=True)


def _check_finish(cell: Cell) -> None:
    finish = cell.finishes[0]
    if finish.reason is FinishReason.DEADLINE:
        assert cell.deadline is not None
        assert cell.finished_at is not None
        assert cell.finished_at >= cell.deadline
    assert (finish.error is not None) == (finish.reason is FinishReason.FAILED)


def count(world: World, tally: ScheduleTally) -> None:
    """Add what happened in a world to a tally."""
    tally.crashes += world.crashes
    for cell in world.cells:
        tally.finishes[str(cell.finishes[0].reason)] += 1
        tally.edge.update(shown=cell.patience.shown, confirmed=cell.patience.confirmed)
    for counters in (*world.past, *(cell.machine.counters for cell in world.cells)):
        tally.edge.update(_numbers(counters))
    for machine in (*world.retired, *(host.machine for host in world.hosts)):
        tally.worker.update(_numbers(machine.counters))


def _numbers(counters: EdgeCounters | WorkerCounters) -> dict[str, int]:
    """Counters that are numbers, by name."""
    values = ((name, getattr(counters, name)) for name in counters.__slots__)
    return {name: value for name, value in values if isinstance(value, int)}
