"""The worker daemon: one forward for all, one edge's trouble for that edge alone, a drain that loses nothing."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial

import pytest
from msgspec import structs

from broker.launcher import PrivateBroker
from cloud_worker.__main__ import draining
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.generation import Generation
from edge_node.node import EdgeNode
from flexspec_mq import waiting
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.retry import Waiting
from flexspec_mq.errors import Cancelled
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.transport.base import Inbound, LinkEvent, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import MAX_DRAFT_TOKENS, Error, ErrorCode, Verdict
from schemas.status import WorkerStatus
from tests.daemons import (
    PATIENCE,
    Daemon,
    FakeEngine,
    alone,
    check,
    edge_at,
    link_to,
    read,
    until,
    wanting,
    worker_at,
    world,
)
from tests.hostile import hostile, opening

CODEC = Codec()


async def opened(daemon: Daemon, node: EdgeNode, numbers: Iterable[int]) -> list[Generation]:
    """Sessions that are all open before the engine goes on; the caller opens its gate."""
    daemon.engine.gate.clear()
    generations = [node.generate(wanting(number)) for number in numbers]
    await until(lambda: len(daemon.worker.machine) == len(generations))
    return generations


async def check_unmoved(generations: Iterable[Generation]) -> None:
    """Each writes what the target writes alone, at the worker where it began."""
    for generation in generations:
        assert (await read(generation))[0] == alone(generation.request)
        assert generation.machine.counters.reopens == 0


async def test_all_sessions_with_work_share_one_forward() -> None:
    async with world() as (_, (daemon,), node):
        daemon.engine.gate.clear()
        first = node.generate(wanting(0))
        await until(daemon.engine.entered.is_set)
        others = [node.generate(wanting(number)) for number in range(1, 13)]
        await until(lambda: len(daemon.worker.machine) == 13)
        daemon.engine.gate.set()
        await check_unmoved((first, *others))
    assert daemon.engine.batches[0] == [(0, 1, 2)]
    assert sorted(daemon.engine.batches[1]) == [(number, 1, 2) for number in range(1, 13)]


async def test_many_sessions_leave_nothing_behind() -> None:
    async with world(["w1", "w2"]) as (_, daemons, node):
        await check(node, [wanting(number, ignore_eos=False) for number in range(40)])
        await until(lambda: all(not d.kept and not d.engine.held for d in daemons))
        assert all(daemon.worker.machine.counters.opened > 5 for daemon in daemons)
        assert sum(daemon.worker.machine.counters.opened for daemon in daemons) == 40


async def test_cancel_reaches_the_worker_while_a_forward_runs() -> None:
    async with world() as (_, (daemon,), node):
        daemon.engine.gate.clear()
        generation = node.generate(wanting(1))
        await until(daemon.engine.entered.is_set)
        node.cancel(generation)
        tokens, finish = await read(generation)
        assert (tokens, finish.reason) == ((), FinishReason.CANCELLED)
        await until(lambda: not daemon.kept)
        daemon.engine.gate.set()
        await until(lambda: not daemon.engine.held)
        assert daemon.worker.machine.counters.dropped == 1
        await check(node, [wanting(2)])


# Drain


async def test_a_drain_lets_sessions_end_where_they_are() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1", drain=PATIENCE) as old, edge_at(broker.link) as node:
        old.engine.gate.clear()
        staying = node.generate(wanting(1))
        await until(old.engine.entered.is_set)
        async with worker_at(broker.link, "w2") as new:
            old.worker.stop()
            await until(lambda: old.worker.machine.draining)
            coming = [node.generate(wanting(number)) for number in (2, 3)]
            old.engine.gate.set()
            for generation in (staying, *coming):
                assert (await read(generation))[0] == alone(generation.request)
            await asyncio.wait_for(old.run, PATIENCE)
            assert staying.machine.counters.reopens == 0
            assert new.worker.machine.counters.opened == 2
        assert node.sessions == 0
    assert status_of(broker, "w1").state == "gone"


async def test_a_drain_that_is_over_moves_sessions_at_once() -> None:
    broker = MemoryBroker()
    async with edge_at(broker.link) as node:
        async with worker_at(broker.link, "w1") as old:
            generations = await opened(old, node, range(6))
            async with worker_at(broker.link, "w2") as new:
                old.worker.stop()
                await asyncio.wait_for(old.run, PATIENCE)
                for generation in generations:
                    assert (await read(generation))[0] == alone(generation.request)
                    assert generation.machine.counters.unknown == 1  # told, not found out by silence
                assert new.worker.machine.counters.opened == 6
        assert status_of(broker, "w1").state == "gone"


async def test_a_worker_that_is_stopped_before_it_ever_connected_ends() -> None:
    broker = MemoryBroker()
    broker.stop()
    worker = CloudWorker(WorkerSettings(worker="w1", drain=PATIENCE), FakeEngine())
    run = asyncio.create_task(worker.run(broker.link, link_to("w-w1")))
    worker.stop()
    await asyncio.wait_for(run, PATIENCE)


async def test_the_first_signal_drains_and_the_second_aborts() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1", drain=PATIENCE) as daemon, edge_at(broker.link) as node:
        daemon.engine.gate.clear()
        generation = node.generate(wanting(1))
        await until(daemon.engine.entered.is_set)

        async def serve() -> None:
            with draining(daemon.worker, daemon.run):
                signal.raise_signal(signal.SIGTERM)
                await until(lambda: daemon.worker.machine.draining)
                assert not daemon.run.done()
                signal.raise_signal(signal.SIGINT)
                await daemon.run

        with pytest.raises(Cancelled, match="before its sessions had ended"):
            await serve()
        async with worker_at(broker.link, "w2"):
            assert (await read(generation))[0] == alone(generation.request)


# Errors


async def test_a_forward_that_fails_for_all_fails_for_none() -> None:
    """As when a batch is too large for the memory: one by one the sessions fit."""

    def out_of_memory(items: Sequence[WorkItem]) -> None:
        if len(items) > 1:
            raise MemoryError("a batch of more than one session does not fit")

    broker = MemoryBroker()
    engine = FakeEngine(out_of_memory)
    async with worker_at(broker.link, "w1", engine) as daemon, edge_at(broker.link) as node:
        generations = await opened(daemon, node, range(4))
        engine.gate.set()
        await check_unmoved(generations)
        assert daemon.worker.machine.counters.failed == 0
        assert any(len(batch) > 1 for batch in engine.batches)
        await until(lambda: not engine.held)


async def test_a_session_that_cannot_be_computed_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    def poisoned(items: Sequence[WorkItem]) -> None:
        if any(item.context[0] == 13 for item in items):
            raise ValueError("the thirteenth prompt is poison")

    broker = MemoryBroker()
    engine = FakeEngine(poisoned)
    async with worker_at(broker.link, "w1", engine) as daemon, edge_at(broker.link) as node:
        poison, *others = await opened(daemon, node, (13, *range(5)))
        engine.gate.set()
        await check_unmoved(others)
        # It was told, and opened again for another try.
        await until(lambda: daemon.worker.machine.counters.failed >= 2)
        assert poison.machine.counters.reopens >= 1
        node.cancel(poison)
        await check(node, [wanting(14)])
        await until(lambda: not engine.held)
    logged = [record for record in caplog.records if record.exc_info]
    assert any(f"edge/{poison.session} cannot be computed" in record.getMessage() for record in logged)


async def test_garbage_costs_its_sender_one_answer_and_others_nothing() -> None:
    rogue_settings = LinkSettings(client_id="rogue", subscriptions=(Subscription("f1/v/rogue"),))
    async with world() as (broker, (daemon,), node), broker.link(rogue_settings) as rogue:
        await rogue.wait_up()
        writing = await opened(daemon, node, range(4))
        for payload in hostile():
            for topic in ("f1/o/base/rogue", "f1/d/w1/rogue"):
                await rogue.publish(topic, payload, qos=1)
        await rogue.publish("f1/d/w1/no name", CODEC.encode(opening()))
        await rogue.publish("f1/d/w1/", CODEC.encode(opening()))
        await until(lambda: daemon.worker.malformed == 2 * len(hostile()) + 2)
        daemon.engine.gate.set()
        await check_unmoved(writing)
        await rogue.publish("f1/d/w1/rogue", CODEC.encode(opening(9, fingerprint=bytes(16))), qos=1)
        async with asyncio.timeout(PATIENCE):
            answers = [event async for event in first(rogue.events(), 2)]
        assert daemon.kept == 0 or len(daemon.worker.machine) == 0
    read_back = [CODEC.decode(answer.payload) for answer in answers]
    assert [m.code for m in read_back if isinstance(m, Error)] == [ErrorCode.MALFORMED, ErrorCode.FINGERPRINT]


@pytest.mark.parametrize("qos", [0, 1])
async def test_an_open_of_more_tokens_than_the_context_is_answered_by_name_and_not_read(qos: int) -> None:
    """Its edge is told which of its sessions cannot be; one that fits is another matter."""
    most = 300
    long = structs.replace(opening(5), prompt=(1,) * (most + MAX_DRAFT_TOKENS), committed=(2,))
    broker = MemoryBroker()
    settings = LinkSettings(client_id="verbose", subscriptions=(Subscription("f1/v/verbose"),))
    engine = FakeEngine(max_context=most)
    async with worker_at(broker.link, "w1", engine) as daemon, broker.link(settings) as verbose:
        await verbose.wait_up()
        await verbose.publish("f1/o/base/verbose", CODEC.encode(long), qos=qos)
        await verbose.publish("f1/o/base/verbose", CODEC.encode(opening(6)), qos=qos)
        async with asyncio.timeout(PATIENCE):
            answers = [event async for event in first(verbose.events(), 2)]
        assert daemon.worker.machine.counters.rejected == 1
        assert daemon.worker.malformed == 0
    told, taken = (CODEC.decode(answer.payload) for answer in answers)
    assert told == Error(5, 1, ErrorCode.CONTEXT, 0, "w1", "Open has 365 tokens, more than 364")
    assert isinstance(taken, Verdict)
    assert taken.session == 6
    assert {answer.qos for answer in answers} == {qos}


async def first(events: AsyncIterator[LinkEvent], count: int) -> AsyncIterator[Inbound]:
    """So many messages of a link."""
    async for event in events:
        if isinstance(event, Inbound):
            yield event
            count -= 1
            if not count:
                return


async def test_two_daemons_never_answer_each_others_noise_for_ever() -> None:
    """A worker whose answers come back to it as if an edge had sent them."""
    broker = MemoryBroker()
    echo_settings = LinkSettings(client_id="echo", subscriptions=(Subscription("f1/v/echo"),))
    async with worker_at(broker.link, "w1") as daemon, broker.link(echo_settings) as echo:
        await echo.wait_up()
        await echo.publish("f1/d/w1/echo", b"noise", qos=1)
        async with asyncio.timeout(PATIENCE):
            async for event in first(echo.events(), 1):
                await echo.publish("f1/d/w1/echo", event.payload, qos=1)
        await until(lambda: daemon.worker.malformed == 2)
        assert echo.counters.received == 1


async def test_refusals_are_paced_per_edge_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_worker.wire._TOLD_EDGES", 3)
    worker = CloudWorker(WorkerSettings(worker="w1"), FakeEngine())

    def answered(edge: str, now: float) -> bool:
        before = len(worker._publish_queue)
        worker._refuse(edge, "noise", now)
        return len(worker._publish_queue) > before

    assert answered("a", 0.0)
    assert not answered("a", 0.9)
    assert answered("b", 0.9)
    assert answered("a", 1.0)
    for number in range(10):
        assert answered(str(number), 2.0)
    assert len(worker._wire._told) == 3
    assert worker.malformed == 14


async def test_a_verifier_thread_that_dies_takes_the_worker_down() -> None:
    class Broken(FakeEngine):
        def free(self, key: tuple[str, int]) -> None:
            raise RuntimeError(f"cannot free {key}")

    broker = MemoryBroker()
    worker = CloudWorker(WorkerSettings(worker="w1"), Broken())
    run = asyncio.create_task(worker.run(broker.link, link_to("w-w1")))
    await asyncio.wait_for(worker.ready.wait(), PATIENCE)
    async with edge_at(broker.link) as node:
        await check(node, [wanting(1, limit=5)])
        with pytest.raises(RuntimeError, match="cannot free"):
            await asyncio.wait_for(run, PATIENCE)


# Idle


async def test_an_idle_worker_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1", status_every=60.0) as daemon, edge_at(broker.link) as node:
        await check(node, [wanting(1)])
        await until(lambda: not daemon.engine.held)
        looks = 0
        machine = daemon.worker.machine
        look = machine.next_tick

        def counted() -> float | None:
            nonlocal looks
            looks += 1
            return look()

        monkeypatch.setattr(machine, "next_tick", counted)
        await asyncio.sleep(0.3)  # the window of the measurement
        assert looks <= 2


def status_of(broker: MemoryBroker, worker: str) -> WorkerStatus:
    payload = broker.retained(f"f1/w/{worker}")
    assert payload is not None
    return CODEC.decode_status(payload, WorkerStatus)


async def test_a_worker_is_back_soon_after_its_broker(
    own_mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may always be waited for: it cannot know while the broker is away."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    waits: list[Waiting] = []
    connect = partial(mqtt_link, on_wait=waits.append)
    at = LinkSettings(port=own_mosquitto.port, client_id="w-w1", backoff=waiting.RETRY_AWAITED / 2)
    async with worker_at(connect, "w1", at=at) as daemon:
        own_mosquitto.kill()
        await until(lambda: len(waits) >= 3)
        first, *later = (wait.delay / waiting.RETRY_AWAITED for wait in waits[:3])
        assert (first, later) == (0.5, [1.0, 1.0])
        await asyncio.to_thread(own_mosquitto.start)
        await until(lambda: not daemon.worker.not_ready)
