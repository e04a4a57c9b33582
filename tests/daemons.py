"""Daemons over the in-memory broker, with an engine and a drafter that are pure functions of the prefix."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cloud_worker.engine.interface import Facts, StepResult
from cloud_worker.settings import QuotaSettings, WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.generation import Generation, GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.interface import Drafted, Drafter, DraftRequest, PricedDrafter
from flexspec_mq.protocol.edge.patience import Waits
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import Finish, SessionKey
from flexspec_mq.protocol.worker.types import Full, WorkItem
from flexspec_mq.telemetry import Telemetry
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import LinkFactory
from lab.simulator.world import EOS, FINGERPRINT, VOCAB, FakeTarget, draft_token
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import Identity, Sampling
from schemas.status import TokenizerStatus
from tests.drafting.simulated import SimulatedDrafter

PATIENCE = 120.0
"""Seconds that anything may take before a test gives up on it; far more than it ever does."""

CONTEXT = 200_000
TARGET = FakeTarget(eos_every=200)
PLAN = Plan(draft_length=4, in_flight=2, qos=1)


class FakeEngine:
    """An `Engine` over the fake target, watched. It holds no KV cache, so it keeps nothing for others.

    Attributes:
        facts: Properties that it tells.
        heads: Name of a head by version.
        batches: Prompts of the items in each step, in order.
        held: Sessions that it was given and not told to free.
        gate: A step waits until it is set.
        before: Called with the items of each step; may raise.
    """

    head_holder = None
    grammars = None
    memory = None
    requests = None
    trouble = ""
    full = Full()

    def __init__(
        self,
        before: Callable[[Sequence[WorkItem]], None] | None = None,
        *,
        max_context: int = CONTEXT,
        tokenizer: TokenizerStatus | None = None,
        facts: Facts | None = None,
    ) -> None:
        self._facts = facts or Facts(
            FINGERPRINT, max_context, VOCAB, "exact", None, "fake", "fake", tokenizer=tokenizer
        )
        self.heads: dict[str, str] = {}
        self.batches: list[list[tuple[int, ...]]] = []
        self.held: set[SessionKey] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.before = before
        self._pending: dict[SessionKey, WorkItem] = {}
        self._read: dict[SessionKey, int] = {}

    @property
    def facts(self) -> Facts:
        return self._facts

    def decide(self, item: WorkItem) -> tuple[int, ...]:
        return TARGET.forward(item)

    def add(self, item: WorkItem) -> None:
        self._pending[item.key] = item
        self.held.add(item.key)

    def hold(self, version: str, head: str) -> None:
        self.heads[version] = head

    def hold_drafter(self, version: str, drafter: PricedDrafter) -> None:
        """Nothing drafts here."""

    def drop(self, version: str) -> str:
        return self.heads.pop(version, "")

    def free(self, key: SessionKey) -> None:
        self._pending.pop(key, None)
        self._read.pop(key, None)
        self.held.discard(key)

    def release(self, key: SessionKey) -> None:
        raise AssertionError(f"it keeps nothing of {key}")

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None) -> None:
        raise AssertionError(f"it keeps nothing of {source} for {key}, {shared}")

    def wake(self) -> None:
        """No step waits for more."""

    def close(self) -> None:
        """Nothing is open."""

    def idle(self) -> bool:
        return not self._pending

    def step(self) -> StepResult:
        began = time.perf_counter()
        items = list(self._pending.values())
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        self.batches.append([tuple(item.context[: item.prompt_length]) for item in items])
        if self.before is not None:
            self.before(items)
        self._pending.clear()
        fed = sum(
            len(item.context) - min(self._read.get(item.key, 0), len(item.context) - 1) for item in items
        )
        decided = [(item, self.decide(item)) for item in items]
        for item, tokens in decided:
            self._read[item.key] = len(item.context) + len(tokens) - 1
        ms = int(1000 * (time.perf_counter() - began))
        return StepResult(decided, ms, len(items), fed + sum(len(item.draft) for item in items))


class FakeDrafter(SimulatedDrafter):
    """The fake draft, watched.

    Args:
        accuracy: share of prefixes in which it is right.
    """

    def __init__(self, accuracy: float = 0.7) -> None:
        super().__init__(lambda seed, context: draft_token(TARGET, seed, context, accuracy), CONTEXT)
        self.accuracy = accuracy
        self.held: set[int] = set()
        self.fails = False

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        if self.fails:
            raise RuntimeError("the drafter is out of memory")
        self.held.update(request.session for request in wanted)
        return super().draft(wanted)

    def free(self, session: int) -> None:
        self.held.discard(session)


def link_to(client_id: str) -> LinkSettings:
    return LinkSettings(client_id=client_id, backoff=0.01, backoff_max=0.05)


@dataclass
class Daemon:
    """A worker that runs."""

    worker: CloudWorker
    engine: FakeEngine
    run: asyncio.Task[None]

    @property
    def kept(self) -> int:
        return len(self.worker.machine.sessions)

    async def kill(self) -> None:
        """End it as an abort does, without a word to its sessions."""
        self.run.cancel()
        await asyncio.wait([self.run])


@asynccontextmanager
async def worker_at(
    connect: LinkFactory,
    name: str,
    engine: FakeEngine | None = None,
    at: LinkSettings | None = None,
    telemetry: Telemetry | None = None,
    quotas: QuotaSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Daemon]:
    """Run a worker; on leaving it drains at once."""
    engine = engine or FakeEngine()
    worker = CloudWorker(
        WorkerSettings(worker=name, **{"drain": 0.0, "status_every": 0.2, **settings}),
        engine,
        quotas=quotas,
        telemetry=telemetry,
    )
    run = asyncio.create_task(worker.run(connect, at or link_to(f"w-{name}")))
    daemon = Daemon(worker, engine, run)
    try:
        await asyncio.wait(
            [run, ready := asyncio.create_task(worker.ready.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        if run.done():
            run.result()
        yield daemon
    finally:
        if isinstance(engine, FakeEngine):
            engine.gate.set()
        worker.stop()
        done, _ = await asyncio.wait([run], timeout=PATIENCE)
        assert done, "the worker does not end"
    if not run.cancelled():
        run.result()


@asynccontextmanager
async def edge_at(
    connect: LinkFactory,
    name: str = "edge",
    drafter: Drafter | None = None,
    at: LinkSettings | None = None,
    **settings: Any,
) -> AsyncIterator[EdgeNode]:
    """Run an edge node."""
    node = EdgeNode(EdgeSettings(edge=name, **settings), drafter or FakeDrafter(), FINGERPRINT, (EOS,))
    async with node.running(connect, at or link_to(f"e-{name}")):
        yield node


def wanting(
    number: int,
    *,
    limit: int = 60,
    plan: Plan = PLAN,
    ignore_eos: bool = True,
    timeout: float | None = None,
    wait: float = PATIENCE,
) -> GenerationRequest:
    """A request that differs from those with other numbers."""
    return GenerationRequest(
        prompt=(number % VOCAB, 1, 2),
        sampling=Sampling(0.7, 40, 0.9, number),
        limit=limit,
        policy=FixedPolicy(plan),
        ignore_eos=ignore_eos,
        timeout=timeout,
        waits=Waits.of(wait),
    )


def alone(request: GenerationRequest) -> tuple[int, ...]:
    """Reference text: tokens that the target writes without any drafts."""
    seed, ignore_eos = request.sampling.seed, request.ignore_eos
    identity = Identity(2, FINGERPRINT, Sampling(0.7, 40, 0.9, seed), (EOS,), ignore_eos, request.limit)
    asked = SessionRequest(session=1, version="base", identity=identity, prompt=request.prompt)
    return TARGET.text(asked)[0]


async def read(generation: Generation) -> tuple[tuple[int, ...], Finish]:
    """All that is committed, and the finish."""
    tokens: list[int] = []
    async with asyncio.timeout(PATIENCE):
        async for event in generation:
            if isinstance(event, Finish):
                assert tuple(tokens) == generation.machine.committed
                return tuple(tokens), event
            assert event.start == len(tokens)
            tokens += event.tokens
    raise AssertionError("a generation ended without a finish")


async def check(node: EdgeNode, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Write all texts at once and compare each with what the target alone writes."""
    generations = [node.generate(request) for request in requests]
    for request, (tokens, finish) in zip(
        requests, await asyncio.gather(*map(read, generations)), strict=True
    ):
        assert finish.error is None
        assert tokens == alone(request), f"the text of {request.prompt} differs"
    return generations


async def until(condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait for something that happens on another task or thread."""
    ends = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < ends, "it does not happen"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def world(
    workers: Sequence[str] = ("w1",),
) -> AsyncIterator[tuple[MemoryBroker, list[Daemon], EdgeNode]]:
    """A broker, workers and one edge; at the end nothing of any session may be left anywhere."""
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:
        daemons = [await stack.enter_async_context(worker_at(broker.link, name)) for name in workers]
        drafter = FakeDrafter()
        node = await stack.enter_async_context(edge_at(broker.link, drafter=drafter))
        yield broker, daemons, node
        broker.faults.clear()
        assert node.sessions == 0
        await until(lambda: not drafter.held)
    leftover = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not leftover, leftover
