"""Workers and a device with keys: they write what they wrote without, whoever dies, restarts or is revoked."""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.launcher import PrivateBroker
from cloud_worker.__main__ import main as cloud
from cloud_worker.metrics import WorkerMetrics
from edge_node.cli.main import main as edge
from edge_node.outbox.journal import Bounds, Journal
from edge_node.outbox.outbox import Outbox
from edge_node.text.metrics import Metrics as EdgeMetrics
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LinkRefused, LocalProtocolError, WorkerError
from flexspec_mq.keys.agreement import new_opening_secrets
from flexspec_mq.keys.envelope import is_keyed, key_wanted
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.faults import Cut, Delay, Direction, Drop, Duplicate, Scope
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import PATIENCE, FakeEngine, alone, check, edge_at, read, until, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment, at
from tests.transport.proxy import proxy_to
from tests.transport.reading import linked


def slow() -> FakeEngine:
    """An engine that leaves others time to do something."""
    return FakeEngine(before=lambda _: time.sleep(0.003))


async def test_texts_are_the_same_and_all_of_them_is_under_keys(
    keys: KeyedDeployment, broker: PrivateBroker
) -> None:
    watching = LinkSettings(port=broker.port, client_id="watcher", subscriptions=(Subscription("f1/#"),))
    async with (
        linked(watching) as watcher,
        worker_at(mqtt_link, "w1", at=at(broker, "w-w1"), keys=keys.worker_file()),
        edge_at(mqtt_link, at=at(broker, "e-edge"), keys=keys.edge_file()) as node,
    ):
        await check(node, [wanting(number) for number in range(8)])
        assert not node.refused
        seen = {"o": 0, "d": 0, "v": 0}
        async with asyncio.timeout(PATIENCE):
            async for event in watcher.events():
                kind = event.topic.split("/")[1] if isinstance(event, Inbound) else ""
                if isinstance(event, Inbound) and kind in seen:
                    assert is_keyed(event.payload)
                    seen[kind] += 1
                if min(seen.values()) >= 8:
                    break


@pytest.mark.parametrize("qos", [0, 1])
async def test_faults_change_no_text(keys: KeyedDeployment, memory: MemoryBroker, qos: int) -> None:
    rng = random.Random(qos)
    async with (
        worker_at(memory.link, "w1", keys=keys.worker_file("w1")) as first,
        worker_at(memory.link, "w2", keys=keys.worker_file("w2")) as second,
        edge_at(memory.link, keys=keys.edge_file()) as node,
    ):
        memory.faults += [
            Drop(0.05, rng, Scope("f1/#")),
            Duplicate(0.1, rng, within=0.1),
            Delay(0.004, rng, jitter=0.004),
            Cut(90, Scope("f1/v/+", Direction.DOWN)),
            Cut(150, Scope("f1/d/+/+", Direction.DOWN)),
        ]
        await check(node, [wanting(100 * qos + number, plan=Plan(4, 2, qos)) for number in range(6)])
        assert all(fault.hits for fault in memory.faults[:4])  # type: ignore[attr-defined]
        assert first.worker.machine.counters.failed == second.worker.machine.counters.failed == 0
        for refused in (node.refused, first.worker.refused, second.worker.refused):
            assert set(refused) <= {KeyReason.REPLAYED, KeyReason.NO_KEY}


async def test_a_worker_that_restarts_asks_for_the_keys_of_its_sessions(
    keys: KeyedDeployment, broker: PrivateBroker
) -> None:
    """It says that it knows nothing of a session, and is believed: nobody waits until it is given up."""
    file = keys.worker_file("w1")
    async with (
        proxy_to(broker.host, broker.port) as proxy,
        edge_at(
            mqtt_link,
            "restarts",
            at=replace(at(broker, "e-r"), port=proxy.port),
            keys=keys.edge_file("restarts"),
        ) as node,
        mqtt_link(at(broker, "asks")) as link,
    ):
        async with worker_at(mqtt_link, "w1", slow(), at=at(broker, "w-r1"), keys=file) as first:
            generation = node.generate(wanting(1, limit=300))
            await until(lambda: len(generation.machine.committed) >= 20)
            # However long the restart takes, the device is away: nobody's silence makes it open elsewhere.
            proxy.stall()
            proxy.cut()
            await first.kill()
        async with worker_at(mqtt_link, "w1", at=at(broker, "w-r2"), keys=file) as second:
            proxy.resume()
            assert (await read(generation))[0] == alone(generation.request)
            assert generation.machine.counters.unknown >= 1
            assert second.worker.machine.counters.unknown >= 1
            await link.wait_up()
            for number in (generation.session, 99):  # for nothing now, and no fault of anybody
                await link.publish("f1/v/restarts", key_wanted(number), qos=1)
            await check(node, [wanting(2)])
            assert set(node.refused) <= {KeyReason.REPLAYED}, "the broker sends again what the cut met"


async def test_a_worker_whose_forward_hangs_is_left_for_another(
    keys: KeyedDeployment, broker: PrivateBroker
) -> None:
    device = edge_at(mqtt_link, "hangs", at=at(broker, "e-h"), keys=keys.edge_file("hangs"))
    async with (
        worker_at(mqtt_link, "w1", slow(), at=at(broker, "w-h1"), keys=keys.worker_file("w1")) as first,
        worker_at(mqtt_link, "w2", slow(), at=at(broker, "w-h2"), keys=keys.worker_file("w2")) as second,
        device as node,
    ):
        await until(lambda: len(node.directory.online()) == 2)
        generation = node.generate(wanting(1, limit=300))
        machine = generation.machine
        await until(lambda: len(machine.committed) >= 20)
        stuck, other = (first, second) if machine.worker == "w1" else (second, first)
        stuck.engine.gate.clear()  # its loop answers, and its engine does not come back
        have = len(machine.committed) + 10
        await until(lambda: len(machine.committed) > have)
        assert machine.worker == other.worker.settings.worker
        await until(lambda: not stuck.kept)
        stuck.engine.gate.set()
        assert (await read(generation))[0] == alone(generation.request)


async def test_a_revoked_worker_is_left_for_another(
    keys: KeyedDeployment, broker: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    device = edge_at(mqtt_link, "leaves", at=at(broker, "e-l"), keys=keys.edge_file("leaves"))
    files = keys.worker_file("w1"), keys.worker_file("w2")
    async with (
        device as node,
        linked(at(broker, "statements")) as link,
        worker_at(mqtt_link, "w1", slow(), at=at(broker, "w-l1"), keys=files[0]) as first,
    ):
        generation = node.generate(wanting(1, limit=300))
        await until(lambda: len(generation.machine.committed) >= 20)
        statement = keys.revoke("w1")
        await link.publish(statement.topic, statement.payload, qos=1, retain=True)
        # A revoked worker is told nothing more, nor believed, though the broker has not disconnected it.
        await until(lambda: node.refused)
        async with worker_at(mqtt_link, "w2", at=at(broker, "w-l2"), keys=files[1]):
            await first.worker.leave_version("base")
            assert (await read(generation))[0] == alone(generation.request)
            assert generation.machine.counters.reopens >= 1
    said = [record.getMessage() for record in caplog.records]
    assert any("this worker was revoked" in line for line in said)
    assert any("worker w1 was revoked" in line for line in said)


async def test_a_device_that_hears_that_it_was_revoked_ends(
    keys: KeyedDeployment, memory: MemoryBroker
) -> None:
    async with (
        worker_at(memory.link, "w1", slow(), keys=keys.worker_file("w1")),
        edge_at(memory.link, keys=keys.edge_file()) as node,
    ):
        generation = node.generate(wanting(1, limit=300))
        await until(lambda: len(generation.machine.committed) >= 20)
        memory.send("statements", keys.revoke("edge"))
        with pytest.raises(LinkRefused, match="this device was revoked"):
            await asyncio.wait_for(node.wait_broken(), PATIENCE)
        _, finish = await read(generation)
        assert finish.error is node.failure
        with pytest.raises(LinkRefused, match="this device was revoked"):
            node.generate(wanting(2))


async def test_a_worker_whose_opening_keys_are_of_before_says_so(
    keys: KeyedDeployment, memory: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        worker_at(memory.link, "w1", keys=keys.worker_file("w1")) as daemon,
        edge_at(memory.link, keys=keys.edge_file()) as node,
    ):
        await check(node, [wanting(1)])
        keys.opening, keys.serial = new_opening_secrets(), 2
        memory.send("statements", keys.published())
        await until(lambda: "lacks the opening key of version base: give it its new file" in caplog.text)
        _, finish = await read(node.generate(wanting(2, wait=0.5)))
        assert isinstance(finish.error, WorkerError)
        assert set(daemon.worker.refused) == {KeyReason.OPENING}


async def test_a_text_that_no_message_can_hold_has_no_key_that_is_kept(
    keys: KeyedDeployment, memory: MemoryBroker
) -> None:
    async with edge_at(memory.link, keys=keys.edge_file()) as node:
        generation = node.generate(wanting(1, limit=2**21))
        assert node.wire.private(generation.session) == b""
        assert isinstance((await read(generation))[1].error, LocalProtocolError)


async def test_a_device_without_keys_is_told_at_once(keys: KeyedDeployment, memory: MemoryBroker) -> None:
    async with (
        worker_at(memory.link, "w1", keys=keys.worker_file("w1")) as daemon,
        edge_at(memory.link) as node,
    ):
        _, finish = await read(node.generate(wanting(1)))
        assert finish.error is not None
        assert "takes messages under keys only" in finish.error.message
        assert "--keys" in finish.error.message
        assert daemon.worker.refused == {KeyReason.UNKEYED: 1}


async def test_a_device_with_keys_says_why_a_worker_without_is_none(
    keys: KeyedDeployment, memory: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker_at(memory.link, "w1"), edge_at(memory.link, keys=keys.edge_file()) as node:
        _, finish = await read(node.generate(wanting(1, wait=0.5)))
        assert isinstance(finish.error, WorkerError)
        assert "in the name of w1: 'the payload is under keys" in finish.error.hint
        assert node.refused[KeyReason.UNKEYED]
    assert "in the name of w1: 'the payload is under keys, and this side has none'" in caplog.text


def figures(page: bytes, name: str) -> dict[str, float]:
    """Values of a counter by reason."""
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name == f"{name}_total"
    }


@pytest.mark.parametrize("program", ["cloud", "edge"])
def test_a_file_of_another_name_ends_the_daemon_at_once(
    keys: KeyedDeployment, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if program == "cloud":
        code = cloud(["--worker", "w1", "--keys", str(keys.worker_file("w2")), "--target", "no-such"])
    else:
        code = edge(
            ["serve", "--edge", "kitchen", "--keys", str(keys.edge_file("cellar")), "--draft", "no-such"]
        )
    said = capsys.readouterr().err
    assert code == 2
    assert "are those of the" in said
    assert "give it the files of its own name" in said


async def test_what_is_not_believed_is_counted_by_reason(
    tmp_path: Path, keys: KeyedDeployment, memory: MemoryBroker
) -> None:
    async with (
        worker_at(memory.link, "w1", keys=keys.worker_file("w1")) as daemon,
        edge_at(memory.link, "keyed", keys=keys.edge_file("keyed")) as keyed,
        edge_at(memory.link, "bare") as bare,
        edge_at(memory.link, "strange", keys=KeyedDeployment(tmp_path).edge_file("strange")) as strange,
    ):
        await check(keyed, [wanting(1)])
        for node in (bare, strange):
            _, finish = await read(node.generate(wanting(2, wait=0.3)))
            assert finish.error is not None
        at_worker = figures(
            WorkerMetrics(daemon.worker).pages()["/metrics"]().body, "flexspec_worker:unbelieved"
        )
        assert at_worker["unkeyed"] == 1
        assert at_worker["credential"] >= 1
        assert at_worker["forged"] == at_worker["revoked"] == 0
        at_edge = figures(
            EdgeMetrics(keyed, Outbox(Journal(None, Bounds()))).page(), "flexspec_edge:unbelieved"
        )
        assert set(at_edge) == set(at_worker)
        assert not any(at_edge.values())
