"""A fake target, a fake draft and a bad link, to join edge and worker machines without any I/O."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import msgspec

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.protocol.edge.patience import Patience
from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.session import EdgeSession, close_unknown
from flexspec_mq.protocol.edge.types import DraftToken, EdgeCounters, EdgeState, SessionRequest
from flexspec_mq.protocol.effects import (
    Commit,
    Deliver,
    Effect,
    Finish,
    Free,
    ProvisionalDraft,
    ReleaseToCache,
    Reply,
    Send,
    Transfer,
    WorkerEffect,
)
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import DraftRows, VersionFacts, WorkerConfig, WorkItem
from lab.simulator.clock import SimulatedClock
from schemas.messages import Close, Delivery, Error, Identity, Open, Sampling, Verdict

FINGERPRINT = bytes(range(16))
VOCAB = 50
EOS = 49
EDGE = "edge"
LATE_BY = 20.0
"""Seconds that a message which comes late takes on top, at most."""


def salted(identity: Identity, salt: int) -> Identity:
    """An identity of another seed."""
    sampling = identity.sampling
    return msgspec.structs.replace(
        identity, sampling=msgspec.structs.replace(sampling, seed=sampling.seed + salt)
    )


def identity(*, seed: int = 1, limit: int = 40, ignore_eos: bool = False) -> Identity:
    """Identity of a session of the fake target."""
    return Identity(2, FINGERPRINT, Sampling(0.7, 40, 0.9, seed), (EOS,), ignore_eos, limit)


def _hash(*parts: object) -> int:
    return crc32(repr(parts).encode())


@dataclass
class FakeTarget:
    """Decides tokens as a pure function of seed and prefix, except near ties, which flip between forwards.

    Args:
        eos_every: number of tokens of which one ends the text.
        flips: share of forwards in which a position may come out differently.
        rng: random numbers of the flips.
        forced: share of prefixes behind which a grammar allows one token only.
    """

    eos_every: int = 60
    flips: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    decided: set[tuple[int, ...]] = field(default_factory=set)
    forced: float = 0.0

    def forces(self, seed: int, prefix: Sequence[int]) -> bool:
        """Whether both sides know the token after `prefix` without any model."""
        return _hash("forced", seed, tuple(prefix)) % 1000 < 1000 * self.forced

    def run(self, item: WorkItem, tokens: Sequence[int]) -> tuple[int, ...]:
        """Forced tokens behind an item's context and what was decided, up to the end of the text."""
        seed, prefix, out = item.identity.sampling.seed, (*item.context, *tokens), list[int]()
        ended = bool(tokens) and tokens[-1] == EOS and not item.identity.ignore_eos
        while (
            not ended and self.forces(seed, prefix) and len(prefix) < item.prompt_length + item.identity.limit
        ):
            out.append(self.token(seed, prefix))
            prefix = (*prefix, out[-1])
            ended = out[-1] == EOS and not item.identity.ignore_eos
            self.decided.add(prefix)
        return tuple(out)

    def token(self, seed: int, prefix: Sequence[int]) -> int:
        """The token after `prefix`, without flips."""
        value = _hash(seed, tuple(prefix))
        if value % self.eos_every == 0:
            return EOS
        return value // 64 % (VOCAB - 1)

    def decide(self, seed: int, prefix: tuple[int, ...]) -> int:
        """The token after `prefix` in this forward."""
        token = self.token(seed, prefix)
        if self.flips and self.rng.random() < self.flips:
            token = (token + 1) % (VOCAB - 1)
        if self.flips:
            self.decided.add((*prefix, token))
        return token

    def text(self, request: SessionRequest) -> tuple[tuple[int, ...], str]:
        """The text that the target alone would write, and how it ends."""
        prefix = list(request.prompt)
        out: list[int] = []
        while True:
            token = self.token(request.identity.sampling.seed, prefix)
            prefix.append(token)
            out.append(token)
            if token in request.identity.eos and not request.identity.ignore_eos:
                return tuple(out), "eos"
            if request.finish_at is not None and request.finish_at(out) is not None:
                return tuple(out), "stop"
            if len(out) == request.identity.limit:
                return tuple(out), "length"

    def forward(self, item: WorkItem, draft: Sequence[int] | None = None) -> tuple[int, ...]:
        """Tokens up to the first that differs from what is verified: `draft`, or the item's."""
        prefix = tuple(item.context)
        assert len(prefix) == item.prompt_length + item.start
        out: list[int] = []
        for drafted in (*(item.draft if draft is None else draft), None):
            token = self.decide(item.identity.sampling.seed, prefix)
            out.append(token)
            prefix = (*prefix, token)
            if token != drafted or (token in item.identity.eos and not item.identity.ignore_eos):
                break
        return tuple(out)


def held(max_context: int) -> VersionFacts:
    """Facts of a simulated worker's target, whose version is "v"."""
    return VersionFacts(FINGERPRINT, max_context, VOCAB)


def draft_token(target: FakeTarget, seed: int, context: Sequence[int], accuracy: float) -> int:
    """The fake draft: right in a share `accuracy` of prefixes, always the same for one prefix."""
    token = target.token(seed, context)
    if _hash("draft", seed, tuple(context)) % 1000 < 1000 * accuracy:
        return token
    return (token + 7) % (VOCAB - 1)


class ChangingPolicy(Policy):
    """Another plan whenever asked, drawn from `plans`."""

    def __init__(self, plans: Sequence[Plan], rng: random.Random) -> None:
        self.plans = plans
        self.rng = rng

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        """A plan of these."""
        return self.rng.choice(self.plans)


@dataclass
class Link:
    """Delays in seconds, and the odds of what can go wrong. A fault is drawn per message."""

    rng: random.Random
    delay: float = 0.04
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0

    def arrivals(self) -> list[float]:
        """Delay of each copy that arrives."""
        copies = 1 + (self.rng.random() < self.duplicate)
        delays = []
        for _ in range(copies):
            if self.rng.random() < self.loss:
                continue
            extra = self.rng.random() * LATE_BY if self.rng.random() < self.late else 0.0
            delays.append(self.delay + self.rng.random() * self.jitter + extra)
        return delays

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.loss = self.duplicate = self.late = self.jitter = 0.0


@dataclass
class Cell:
    """An edge session with its drafter and what it gave to the user: tokens, the time of each, and unverified ones."""

    request: SessionRequest
    machine: EdgeSession
    patience: Patience
    policy: Policy
    accuracy: float
    draft_time: float
    deadline: float | None = None
    fallback: Callable[[], int] | None = None
    shown: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    unverified: list[int] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    finished_at: float | None = None
    drafting: bool = False
    restarts: int = 0
    away: bool = False


@dataclass
class Host:
    """A worker process: machine, engine, and whether it is there. `cached` counts prompt and generated tokens."""

    name: str
    machine: WorkerMachine
    alive: bool = True
    hung: bool = False
    subscribed: bool = True
    busy: bool = False
    restarts: int = 0
    cached: dict[tuple[str, int], int] = field(default_factory=dict)
    pending: dict[tuple[str, int], WorkItem] = field(default_factory=dict)


class World:
    """Edges, workers and time. Every message and every forward is an event in one queue.

    Args:
        rng: all chance.
        target: target that the workers compute.
        link: between any two.
        workers: how many.
        config: config of the workers; the name is replaced.
        forward_time: seconds of a forward and of each position in it.
        reading: tokens of unread prefixes that one forward reads; None reads them all and takes no time for it.
    """

    def __init__(
        self,
        rng: random.Random,
        target: FakeTarget,
        link: Link,
        workers: int,
        config: WorkerConfig,
        forward_time: tuple[float, float] = (0.048, 0.0012),
        reading: int | None = None,
    ) -> None:
        self.rng = rng
        self.target = target
        self.link = link
        self.config = config
        self.forward_time = forward_time
        self.reading = reading
        self.online = True
        self.cells: list[Cell] = []
        self.hosts = [Host(f"w{i}", self._machine(f"w{i}")) for i in range(workers)]
        self.turn = 0
        self.prefixes = PrefixIndex(least=1, ttl=1000.0)
        self.finished: Callable[[Cell], None] | None = None
        self.early_stops = 0.02
        self.worker_accuracy = 0.7
        self.cuts = 0.0  # share of drafts of which a forward verifies the beginning only
        self.doubts = False  # drafted tokens have confidences of all kinds
        self.crashes = 0
        self.most_held = 0
        self._clock = SimulatedClock()
        self.retired: list[WorkerMachine] = []
        self.past: list[EdgeCounters] = []  # of earlier incarnations of devices
        self.kept: dict[int, tuple[Delivery, float]] = {}  # answers at the broker, and when it drops them
        self.asked, self.answered = Counter[tuple[str, int]](), Counter[tuple[str, int]]()  # at each worker
        self.closes: list[Callable[[], None]] = []  # of texts that ended while there was no link

    def _machine(self, name: str) -> WorkerMachine:
        return WorkerMachine(replace(self.config, worker=name))

    # Time

    @property
    def now(self) -> float:
        """Seconds of simulated time."""
        return self._clock.now

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Have something happen so many seconds from now."""
        self._clock.at(delay, action)

    def step(self, until: float) -> bool:
        """Run the next event or timer up to `until`; False when there is none before it."""
        due: list[float | None] = [cell.patience.next_tick() for cell in self.cells if not cell.away]
        due += [host.machine.next_tick() for host in self.hosts if host.alive]
        timer = min((at for at in due if at is not None), default=float("inf"))
        event = self._clock.next
        at = min(timer, event)
        if at > until:
            self._clock.wait(until)
            return False
        self._clock.wait(at)
        if event <= timer:
            self._clock.step()
        else:
            self._tick()
        return True

    def _tick(self) -> None:
        for cell in self.cells:
            if cell.patience.next_tick() <= self.now and not cell.away:
                self.edge(cell, cell.patience.tick(self.now))
        for host in self.hosts:
            at = host.machine.next_tick()
            if host.alive and at is not None and at <= self.now:
                self._worker(host, host.machine.tick(self.now))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self.step(until):
            pass

    # Edges

    def add(
        self,
        request: SessionRequest,
        policy: Policy,
        accuracy: float,
        draft_time: float = 0.008,
        *,
        deadline: float | None = None,
        fallback: Callable[[], int] | None = None,
    ) -> Cell:
        """Begin a session; `deadline` and `fallback` are its user's, see `Patience`."""
        jitter = random.Random(self.rng.random())
        machine = EdgeSession(request, policy, jitter, others=lambda _: len(self.hosts) > 1)
        patience = Patience(machine, deadline, fallback=fallback)
        shown = list(machine.committed)
        cell = Cell(request, machine, patience, policy, accuracy, draft_time, deadline, fallback, shown)
        self.cells.append(cell)
        self._begin(cell)
        return cell

    def _begin(self, cell: Cell) -> None:
        if not self.online:
            cell.machine.link_down(self.now)
        if cell.machine.state is EdgeState.NEW:
            self.edge(cell, cell.machine.start(self.now))

    def leave(self, cell: Cell) -> None:
        """The device of a session goes away without a word, with all that it holds in memory."""
        cell.away = True

    def come_back(self, cell: Cell, have: int) -> None:
        """The device is back, which had the first `have` tokens on its disk at least; it goes on with its text."""
        if not cell.away or cell.finishes:
            cell.away = False
            return
        cell.restarts += 1
        self.past.append(cell.machine.counters)
        cell.shown = cell.shown[: max(have, len(cell.request.committed))]
        cell.unverified = []
        request = replace(cell.request, committed=tuple(cell.shown), attempts=cell.restarts << 16, reuse=None)
        jitter = random.Random(self.rng.random())
        cell.machine = EdgeSession(request, cell.policy, jitter, others=lambda _: len(self.hosts) > 1)
        cell.patience = Patience(cell.machine, fallback=cell.fallback)
        cell.away = cell.drafting = False
        if cell.restarts % 2 and self.online:
            self._fetch(cell, lambda deliver: deliver())  # it has it before its text goes on
        self._begin(cell)
        self._fetch(cell, self._carry)

    def _fetch(self, cell: Cell, carry: Callable[[Callable[[], None]], None]) -> None:
        """Deliver what the broker keeps for a device, as soon as that is there."""
        kept, expires = self.kept.get(cell.request.session, (None, 0.0))
        if kept is not None and expires > self.now:
            carry(partial(self._to_edge, kept))

    def _keep(self, effect: Deliver) -> None:
        """A retained message reaches the broker."""
        if effect.message is None:
            self.kept.pop(effect.key[1], None)
            return
        self.kept[effect.key[1]] = effect.message, self.now + effect.keep
        self._to_edge(effect.message)

    def edge(self, cell: Cell, effects: Sequence[Effect]) -> None:
        """Carry out what an edge's session wants."""
        for effect in cell.patience.watch(effects):
            match effect:
                case Send():
                    assert self.online or isinstance(effect.message, Close), "nothing else is sent offline"
                    if self.online:
                        self._publish(cell, effect)
                    else:
                        self.closes.append(partial(self._publish, cell, effect))
                case Commit(start, tokens, accepted):
                    assert start == len(cell.shown)
                    assert len(accepted) == len(tokens) > 0
                    assert not cell.finishes
                    cell.shown.extend(tokens)
                    cell.times += [self.now] * len(tokens)
                    cell.unverified = cell.unverified[len(tokens) :]
                case ProvisionalDraft(start, tokens):
                    assert cell.fallback is not None
                    kept = cell.unverified[: start - len(cell.shown)]
                    assert start == len(cell.shown) + len(kept)
                    cell.unverified = [*kept, *tokens]
                case Finish():
                    cell.finishes.append(effect)
                    cell.finished_at = self.now
                    if cell.machine.written is not None:
                        self.prefixes.remember("v", cell.machine.written, self.now)
                    if self.finished is not None:
                        self.finished(cell)
        assert tuple(cell.shown) == cell.machine.committed
        self._drive(cell)

    def _drive(self, cell: Cell) -> None:
        """The drafter: one token, then ask again."""
        wanted = cell.machine.draft_request()
        if cell.drafting or wanted is None:
            return
        cell.drafting, restarts = True, cell.restarts
        start, digest, context = wanted.start, wanted.digest, tuple(wanted.context)

        def done() -> None:
            if cell.away or cell.restarts != restarts:
                return
            cell.drafting = False
            if self.rng.random() < self.early_stops:
                self.edge(cell, cell.machine.draft_stopped(start, digest, self.now))
                return
            seed = cell.request.identity.sampling.seed
            if self.target.forces(seed, context):
                drafted = DraftToken(self.target.token(seed, context), 1.0, "grammar")
            else:
                doubt = _hash("doubt", context) % 1000 / 1000 if self.doubts else 0.0
                drafted = DraftToken(draft_token(self.target, seed, context, cell.accuracy), 1 - doubt)
            self.edge(cell, cell.machine.drafted(start, digest, drafted, self.now))

        self.at(cell.draft_time, done)

    def _publish(self, cell: Cell, send: Send) -> None:
        takers = [host for host in self.hosts if host.subscribed]
        if send.to_worker is None and not takers:
            self._tell(cell, 0.01, lambda: cell.machine.no_worker(self.now))
            return
        if send.to_worker is None:
            self.turn += 1
            host = takers[self.turn % len(takers)]
        else:
            host = next(h for h in self.hosts if h.name == send.to_worker)
            if isinstance(send.message, Open) and host.hung and self.rng.random() < 0.3:
                self._tell(cell, 0.01, lambda: cell.machine.prefix_lost(self.now))
                return
        version = cell.request.version if send.to_worker is None else None
        self._carry(lambda: self._deliver(host, send, version))

    def _tell(self, cell: Cell, delay: float, news: Callable[[], Sequence[Effect]]) -> None:
        """The broker tells a session something, if its device is still there then."""
        restarts = cell.restarts
        self.at(delay, lambda: None if cell.away or cell.restarts != restarts else self.edge(cell, news()))

    def set_link(self, *, up: bool) -> None:
        """Connect all edges, or cut them off."""
        if up == self.online:
            return
        self.online = up
        while up and self.closes:
            self.closes.pop()()
        for cell in self.cells:
            if cell.away:
                continue
            machine = cell.machine
            self.edge(cell, machine.link_up(self.now) if up else machine.link_down(self.now))
            if up:
                self._fetch(cell, self._carry)

    def _to_edge(self, message: Verdict | Delivery | Error) -> None:
        if not self.online:
            self.at(0.5, lambda: self._to_edge(message))  # the broker's persistent session
            return
        for cell in self.cells:
            if cell.request.session == message.session:
                if not cell.away:
                    self.edge(cell, cell.machine.receive(message, self.now))
                return
        if isinstance(message, Verdict | Delivery):
            for effect in close_unknown(message):
                assert isinstance(effect, Send)

    # Workers

    def _carry(self, deliver: Callable[[], None]) -> None:
        """Move one message. Nothing ever expires: the worst broker."""
        for delay in self.link.arrivals():
            self.at(delay, deliver)

    def _deliver(self, host: Host, send: Send, version: str | None) -> None:
        if host.alive and not host.hung:
            self.asked[host.name, send.message.session] += 1
            self._worker(host, host.machine.receive(EDGE, send.message, self.now, send.qos, version))

    def _worker(self, host: Host, effects: Sequence[WorkerEffect]) -> None:
        for effect in effects:
            match effect:
                case Reply(edge, message, _):
                    assert edge == EDGE
                    self.answered[host.name, message.session] += 1
                    self._carry(partial(self._to_edge, message))
                case Free(key):
                    host.cached.pop(key, None)
                    host.pending.pop(key, None)
                case ReleaseToCache(key):
                    host.pending.pop(key, None)
                case Deliver():
                    self._carry(partial(self._keep, effect))
                case Transfer(source, key, shared):
                    assert source[0] == key[0]
                    prompt = len(host.machine.sessions[key].prompt)
                    if source in host.cached:
                        held = host.cached.pop(source) if shared is None else min(host.cached[source], shared)
                        host.cached[key] = min(held, prompt - 1)
        for session in host.machine.sessions.values():
            self.most_held = max(self.most_held, len(session.held))
        self._compute(host)

    def _compute(self, host: Host) -> None:
        work = host.pending or host.machine.ready()
        if host.busy or host.hung or not host.alive or not work:
            return
        host.pending.update((item.key, item) for item in host.machine.take_work(self.now, 4))
        host.busy = True
        items, read = self._compose(host)
        base, each = self.forward_time
        drafts = [self._verified(item) for item in items]
        rows = sum(1 + len(draft) for draft in drafts)
        took = base + each * (read + rows)
        restarts, began = host.restarts, self.now

        def done() -> None:
            if host.restarts != restarts:
                return
            host.busy = False
            for item in items:
                if host.pending.get(item.key) is item:
                    del host.pending[item.key]
            for item, draft in zip(items, drafts, strict=True):
                forced = self.target.run(item, ())  # known without a forward
                tokens = () if forced else self.target.forward(item, draft)
                host.cached[item.key] = max(0, len(item.context) + len(tokens) - 1)
                forced = forced or self.target.run(item, tokens)
                queue, ms = max(0, round(1000 * (began - item.waiting_since))), round(1000 * took)
                rows = DraftRows(forced=len(forced))
                self._worker(host, host.machine.result(item, tokens + forced, queue, ms, self.now, rows))
            self._compute(host)

        self.at(took, done)

    def _verified(self, item: WorkItem) -> tuple[int, ...]:
        """Draft that a forward verifies: the edge's and what the worker drafts behind it, or its beginning."""
        if self.cuts and self.rng.random() < self.cuts:
            return item.draft[: self.rng.randint(0, len(item.draft))]
        draft = item.draft
        for _ in range(self.rng.randint(0, item.room) if item.room else 0):
            context = (*item.context, *draft)
            draft += (draft_token(self.target, item.identity.sampling.seed, context, self.worker_accuracy),)
        return draft

    def _compose(self, host: Host) -> tuple[list[WorkItem], int]:
        """Items that the next forward decides, and how many tokens of other prefixes it reads: the oldest first."""
        if self.reading is None:
            return list(host.pending.values()), 0
        items, budget = [], self.reading
        for item in host.pending.values():
            unread = len(item.context) - host.cached.get(item.key, 0)
            if unread > 1:
                share = min(unread - 1, budget)
                budget -= share
                host.cached[item.key] = host.cached.get(item.key, 0) + share
            else:
                items.append(item)
        return items, self.reading - budget

    def crash(self, host: Host) -> None:
        """Kill a worker and start it anew under its name, knowing nothing."""
        self.crashes += 1
        self.retired.append(host.machine)
        host.machine = self._machine(host.name)
        host.restarts += 1
        host.busy = host.hung = False
        host.alive = True
        host.cached.clear()
        host.pending.clear()
        for cell in self.cells:
            if cell.machine.worker == host.name and self.rng.random() < 0.7:
                self.at(0.3, partial(self.gone, cell, host.name))
            self.at(0.4, partial(self.back, cell))

    def gone(self, cell: Cell, name: str) -> None:
        """The worker's will reaches an edge."""
        if self.online and not cell.away:
            self.edge(cell, cell.machine.worker_gone(name, self.now))

    def back(self, cell: Cell) -> None:
        """The first status of a worker that serves again reaches an edge."""
        if self.online and not cell.away and cell.machine.state is not EdgeState.NEW:
            self.edge(cell, cell.machine.worker_online(self.now))

    def stick(self, host: Host) -> None:
        """A forward does not come back: its loop answers, and nothing is decided any more."""
        host.busy = True
        host.restarts += 1

    def hang(self, host: Host, seconds: float) -> None:
        """Nothing goes in or out for a while; what is computed comes late."""
        host.hung = True
        restarts = host.restarts

        def wake() -> None:
            if host.restarts == restarts:
                host.hung = False
                self._compute(host)

        self.at(seconds, wake)

    # Checks

    def check(self, cell: Cell) -> None:
        """The text so far is the target's; a finish is where the target's text finishes."""
        text = tuple(cell.shown)
        if self.target.flips:
            for end in range(len(cell.request.committed), len(text)):
                decided = (*cell.request.prompt, *text[: end + 1])
                assert decided in self.target.decided, f"token {end} was never decided on this prefix"
        else:
            truth, reason = self.target.text(cell.request)
            assert text == truth[: len(text)]
            if cell.machine.finished in ("eos", "stop", "length"):
                assert (text, cell.machine.finished) == (truth, reason)
        assert len(cell.finishes) == (cell.machine.state is EdgeState.DONE)

    def drained(self) -> bool:
        """Whether no worker keeps anything."""
        machines = [host.machine for host in self.hosts]
        return not any(host.cached for host in self.hosts) and not any(
            machine.sessions or machine.prefixes or machine.deliveries for machine in machines
        )
