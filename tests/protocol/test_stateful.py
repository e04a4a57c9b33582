"""Hypothesis chooses what happens next: every interleaving of messages, time and faults."""

import os
import random
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_as_test

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.worker.session import MOST_HELD
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.simulator.schedules import ScheduleTally, count
from lab.simulator.world import Cell, FakeTarget, Link, World, held, identity

MAIL = 100
INDEX = st.integers(0, MAIL)
PLANS = st.builds(
    Plan,
    st.sampled_from((0, 1, 3, 8)),
    st.integers(1, 4),
    st.just(0),
    st.sampled_from((0, 0, 6, 40)),
    worker_draft=st.sampled_from((0, 2, 8)),
)
EXAMPLES = int(os.environ.get("FLEXSPEC_STATEFUL_EXAMPLES", "100"))
"""By default the same ones each time, so that what they must have seen can be asserted."""


class Mailroom(World):
    """A world in which hypothesis is the network."""

    mail: list[Callable[[], None]]
    automatic = False

    def _carry(self, deliver: Callable[[], None]) -> None:
        if self.automatic:
            self.at(0.02, deliver)
        else:
            self.mail.append(deliver)
            del self.mail[:-MAIL]


class Dial(Policy):
    """A policy whose plan is set from outside."""

    def __init__(self, plan: Plan) -> None:
        self.now = plan

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface
        return self.now


class Schedule(RuleBasedStateMachine):
    flips: ClassVar[float] = 0.0
    tally: ClassVar[ScheduleTally]

    @initialize(workers=st.integers(1, 3), capacity=st.integers(1, 4), seed=st.integers(0, 99), plan=PLANS)
    def begin(self, workers: int, capacity: int, seed: int, plan: Plan) -> None:
        rng = random.Random(seed)
        config = WorkerConfig(
            worker="w",
            versions=("v",),
            facts=held(512),
            capacity=capacity,
            lease=10,
            prefixes=capacity,
            prefix_ttl=15.0,
            deliver_for=60,
            device_deliveries=1 + seed % 3,
            deliver_bytes=4 * 1200,
        )
        forced = 0.5 if seed % 3 == 0 else 0.0
        target = FakeTarget(eos_every=25, flips=self.flips, rng=random.Random(seed), forced=forced)
        self.world = Mailroom(rng, target, Link(rng), workers, config, (0.02, 0.001))
        self.world.cuts = 0.3 if seed % 2 else 0.0
        self.world.mail = []
        self.dials: list[Dial] = []
        self.add(30, 0.7, plan, 600)

    @precondition(lambda self: len(self.world.cells) < 4)
    @rule(
        limit=st.sampled_from((1, 8, 30)),
        accuracy=st.sampled_from((0.0, 0.7, 1.0)),
        plan=PLANS,
        deliver=st.sampled_from((0, 20, 600)),
    )
    def add(self, limit: int, accuracy: float, plan: Plan, deliver: int) -> None:
        number = len(self.world.cells) + 1
        stop = number * 5
        request = SessionRequest(
            session=number,
            version="v",
            identity=identity(seed=number, limit=limit, ignore_eos=number % 2 == 0),
            prompt=(number, 7),
            finish_at=lambda tokens: len(tokens) if tokens[-1] == stop else None,
            deliver=deliver,
        )
        dial = Dial(plan)
        self.dials.append(dial)
        fallback = (None, lambda: 100, lambda: 5)[number % 3]
        self.world.add(request, dial, accuracy, fallback=fallback)

    @precondition(lambda self: len(self.world.cells) < 6 and any(c.finishes for c in self.world.cells))
    @rule(index=INDEX, more=st.integers(1, 3), plan=PLANS, quiet=st.booleans())
    def go_on(self, index: int, more: int, plan: Plan, quiet: bool) -> None:
        """The next turn after a session that is over; with `quiet`, what was said before has arrived."""
        if quiet:
            self.peace(1)
        over = [cell for cell in self.world.cells if cell.finishes]
        self._next_turn(over[index % len(over)], more, plan)

    def _next_turn(self, last: Cell, more: int, plan: Plan) -> None:
        number = len(self.world.cells) + 1
        prompt = (*last.request.prompt, *last.shown, *range(number, number + more))
        request = SessionRequest(
            session=number,
            version="v",
            identity=identity(seed=number, limit=10),
            prompt=prompt,
            reuse=self.world.prefixes.offer("v", prompt, self.world.now),
        )
        dial = Dial(plan)
        self.dials.append(dial)
        self.world.add(request, dial, 0.7)

    @precondition(lambda self: self.world.mail)
    @rule(count=st.integers(1, 6))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.world.mail))):
            self.world.mail.pop(0)()

    @precondition(lambda self: self.world.mail)
    @rule(index=INDEX, again=st.booleans())
    def deliver_any(self, index: int, again: bool) -> None:
        index %= len(self.world.mail)
        message = self.world.mail[index] if again else self.world.mail.pop(index)
        message()

    @precondition(lambda self: self.world.mail)
    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        self.world.mail.pop(index % len(self.world.mail))

    @precondition(lambda self: self.world.mail)
    @rule(index=INDEX)
    def lose_one_of_all(self, index: int) -> None:
        self.world.run(0.15)
        if self.world.mail:
            self.world.mail.pop(index % len(self.world.mail))
        self.peace(1)

    @rule(seconds=st.sampled_from((0.01, 0.03, 0.1, 0.1, 0.5, 2.0, 12.0)))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(rounds=st.integers(1, 5))
    def peace(self, rounds: int) -> None:
        """Some rounds in which all arrives in order, or hardly anything would ever finish."""
        for _ in range(rounds):
            for _ in range(len(self.world.mail)):
                self.world.mail.pop(0)()
            self.world.run(0.06)

    @rule(index=INDEX)
    def crash(self, index: int) -> None:
        self.world.crash(self.world.hosts[index % len(self.world.hosts)])

    @rule(index=INDEX, seconds=st.sampled_from((0.3, 3.0)))
    def hang(self, index: int, seconds: float) -> None:
        self.world.hang(self.world.hosts[index % len(self.world.hosts)], seconds)

    @rule(index=INDEX)
    def drain(self, index: int) -> None:
        host = self.world.hosts[index % len(self.world.hosts)]
        host.machine.drain(self.world.now)
        host.subscribed = False

    @rule(index=INDEX)
    def retire(self, index: int) -> None:
        """A host takes no new texts of the version; those that have begun go on, wherever they began."""
        host = self.world.hosts[index % len(self.world.hosts)]
        sessions = host.machine.sessions_of("v")
        self.world._worker(host, host.machine.retire("v"))
        assert host.machine.sessions_of("v") == sessions
        assert host.machine.versions == []

    @rule(index=INDEX)
    def hold(self, index: int) -> None:
        host = self.world.hosts[index % len(self.world.hosts)]
        host.machine.hold("v")

    @rule(index=INDEX)
    def subscribe(self, index: int) -> None:
        self.world.hosts[index % len(self.world.hosts)].subscribed = True

    @rule(up=st.booleans())
    def link(self, up: bool) -> None:
        self.world.set_link(up=up)

    @rule(index=INDEX)
    def will(self, index: int) -> None:
        cell = self.world.cells[index % len(self.world.cells)]
        self.world.gone(cell, cell.machine.worker or "nobody")

    @rule(index=INDEX, seconds=st.sampled_from((0.2, 2.0, 6.0, 40.0)))
    def leave(self, index: int, seconds: float) -> None:
        """A device goes away; its text is written on, if a worker has promised that."""
        self.world.leave(self.world.cells[index % len(self.world.cells)])
        self.wait(seconds)

    @rule(index=INDEX, have=INDEX)
    def come_back(self, index: int, have: int) -> None:
        """It comes back with a part of what it was told on its disk."""
        cell = self.world.cells[index % len(self.world.cells)]
        self.world.come_back(cell, have % (len(cell.shown) + 1))

    @rule(index=INDEX, plan=PLANS)
    def replan(self, index: int, plan: Plan) -> None:
        self.dials[index % len(self.dials)].now = plan

    @precondition(lambda self: len(self.world.cells) > 1)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        cell = self.world.cells[index % len(self.world.cells)]
        if not cell.away:
            self.world.edge(cell, cell.machine.cancel(self.world.now))

    @invariant()
    def the_text_is_right(self) -> None:
        for cell in self.world.cells:
            self.world.check(cell)
            text, count = cell.machine._text, len(cell.unverified)
            stands = text.chain.tokens(text.committed, text.committed + count)
            assert cell.finishes or stands == tuple(cell.unverified), "what is shown is what will be verified"

    @invariant()
    def nothing_grows_without_bound(self) -> None:
        world = self.world
        assert world.most_held <= MOST_HELD
        for host in world.hosts:
            assert len(host.machine.sessions) <= 2 * world.config.capacity
            assert host.machine.prefixes <= world.config.prefixes
            assert len(host.machine.deliveries) <= world.config.device_deliveries
            assert host.machine.deliveries.nbytes <= world.config.deliver_bytes
        for cell in world.cells:
            assert len(cell.machine._text.chain) <= cell.machine._text.committed + 5 * 64
            assert len(cell.machine._sender.in_flight) <= 8

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.automatic = True
        for host in world.hosts:
            if host.machine.draining or host.hung:
                world.crash(host)
            host.subscribed = True
            host.machine.hold("v")
        world.set_link(up=True)
        for cell in world.cells:
            world.come_back(cell, len(cell.shown))
        for dial in self.dials:
            dial.now = Plan(3, 2, 0, 0)
        while world.mail:
            world.mail.pop(0)()
        self._finish_all()
        # However it went, in peace the newest text can be gone on from.
        self._next_turn(max(world.cells, key=lambda cell: cell.finished_at or 0.0), 1, Plan(3, 2, 0, 0))
        self._finish_all()
        self.the_text_is_right()
        assert all(cell.finishes for cell in world.cells), "unfinished"
        world.run(80)
        assert world.drained(), "a worker still holds something"
        count(self.world, self.tally)

    def _finish_all(self) -> None:
        end = self.world.now + 90
        while self.world.step(end) and not all(cell.finishes for cell in self.world.cells):
            pass


class FlippingSchedule(Schedule):
    flips = 0.2


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Schedule, FlippingSchedule])
def test_any_interleaving(machine: type[Schedule]) -> None:
    machine.tally = tally = ScheduleTally()
    run_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            derandomize=EXAMPLES == 100,
            suppress_health_check=list(HealthCheck),
        ),
    )
    finishes, edge, worker = tally.finishes, tally.edge, tally.worker
    assert finishes["eos"] + finishes["stop"] + finishes["length"] >= EXAMPLES, tally
    assert finishes["eos"] >= EXAMPLES // 20, tally
    assert edge["reopens"] >= EXAMPLES // 2, tally
    # Hypothesis draws by the constants of all loaded modules, so the floor is well below the usual count.
    assert edge["polls"] >= EXAMPLES // 4, tally
    assert min(edge["judged"] - edge["accepted"], edge["accepted"]) >= EXAMPLES, tally
    assert worker["worker_accepted"] >= EXAMPLES // 4, tally
    assert worker["reopened"] >= 1, tally
    assert worker["delivered"] >= EXAMPLES // 10, tally
    assert edge["deliveries"] >= EXAMPLES // 20, tally
    assert edge["shown"] > edge["confirmed"] >= EXAMPLES // 4, tally
    assert worker["inherited"] >= EXAMPLES // 10, tally
    assert finishes["failed"] <= finishes.total() // 10, tally
