"""Whoever runs the broker, and another worker of the same deployment, against texts that are being written.

They see every message and publish on every topic: copies, cut ones, changed ones, ones moved into another session,
device's words as worker's, verdicts of their own. Not one token changes, and each kind has its log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.admission import ANSWER, KILOBYTE, MESSAGE
from cloud_worker.settings import QuotaSettings
from flexspec_mq.codec import Codec
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import is_keyed, key_wanted, read_envelope, wanted_session
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.worker import WorkerKeys
from flexspec_mq.transport.base import Inbound, LinkSettings, Outbound, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import (
    Close,
    CloseReason,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Open,
    Poll,
    Sampling,
    Verdict,
)
from tests.daemons import PATIENCE, FakeEngine, alone, check, edge_at, read, until, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment, at
from tests.transport.reading import Reader, linked

CODEC = Codec()
IDENTITY = Identity(2, FINGERPRINT, Sampling(0.7, 40, 0.9, 1), (), True, 40)
WORKER_REASONS = {KeyReason.UNKEYED, KeyReason.MALFORMED, KeyReason.FORGED, KeyReason.REPLAYED}
EDGE_REASONS = {*WORKER_REASONS, KeyReason.NO_KEY}


def hearing(broker: PrivateBroker, topic_filter: str = "f1/o/base/edge") -> LinkSettings:
    """Settings of whoever listens in."""
    wanted = (Subscription(topic_filter),)
    return LinkSettings(port=broker.port, client_id="listener", subscriptions=wanted, inbound_queue=2**16)


def moved(payload: bytes, session: int) -> bytes:
    return payload[:2] + session.to_bytes(4, "little") + payload[6:]


def forged_verdicts(session: int) -> Iterator[bytes]:
    """Verdicts and errors without a key that an edge without keys would take."""
    for attempt in range(1, 9):
        yield CODEC.encode(Verdict(session, attempt, 0, 0, (1, 2, 3), 0, Fin.EOS, 0, 0, "w1", 60))
        yield CODEC.encode(Error(session, attempt, ErrorCode.INTERNAL, 0, "w1", "forged"))
        yield CODEC.encode(Error(session, attempt, ErrorCode.PROTOCOL, 0, "w1", "forged"))


class Operator:
    """Whoever runs the broker: sees all, says anything."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._own: set[bytes] = set()
        self._rng = random.Random(1)
        self.seen: list[Inbound] = []

    async def run(self) -> None:
        async for event in self._link.events():
            if not isinstance(event, Inbound) or event.topic.split("/")[1] not in {"o", "d", "v"}:
                continue
            if event.payload in self._own or not is_keyed(event.payload):
                continue
            if wanted_session(event.payload) is None:
                await self._attack(event)

    async def _attack(self, event: Inbound) -> None:
        payload, rng = event.payload, self._rng
        session = read_envelope(payload).session
        others = [one for one in self.seen if one.topic == event.topic]
        self.seen.append(event)
        changed = bytearray(payload)
        changed[rng.randrange(2, len(payload))] ^= 1 << rng.randrange(8)
        kinds = [
            payload,
            payload[: rng.randrange(1, len(payload))],
            payload[:-1],
            payload + b"\0",
            bytes(changed),
            moved(payload, session ^ 1),
            bytes((payload[0], payload[1] ^ 0x10)) + payload[2:],
            *([moved(payload, read_envelope(rng.choice(others).payload).session)] if others else []),
        ]
        for attack in (kinds[0], *rng.sample(kinds[1:], 3)):
            await self.say(event.topic, attack)
        edge = event.topic.split("/")[-1]
        if event.topic.startswith("f1/v/"):
            await self.say(event.topic, rng.choice(list(forged_verdicts(session))))
            await self.say(event.topic, key_wanted(session))
            await self.say(f"f1/d/w1/{edge}", payload)
        else:
            await self.say(f"f1/v/{edge}", payload)
            await self.say(event.topic, CODEC.encode(Close(session, 9, 0, CloseReason.CANCELLED)))

    async def say(self, topic: str, payload: bytes) -> None:
        self._own.add(payload)
        with contextlib.suppress(Exception):
            await self._link.publish(topic, payload)


@contextlib.asynccontextmanager
async def operator(broker: PrivateBroker) -> AsyncIterator[Operator]:
    async with linked(hearing(broker, "f1/#")) as link:
        attacker = Operator(link)
        task = asyncio.create_task(attacker.run())
        try:
            yield attacker
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])


async def test_whoever_runs_the_broker_changes_no_token(
    keys: KeyedDeployment, broker: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(before=lambda _: time.sleep(0.002))
    async with (
        operator(broker) as attacker,
        worker_at(mqtt_link, "w1", engine, at=at(broker, "w-1"), keys=keys.worker_file("w1")) as daemon,
        edge_at(mqtt_link, at=at(broker, "e-1"), keys=keys.edge_file()) as node,
    ):
        number, ends = 0, time.monotonic() + PATIENCE
        while not (set(node.refused) >= EDGE_REASONS and set(daemon.worker.refused) >= WORKER_REASONS):
            assert time.monotonic() < ends, (node.refused, daemon.worker.refused)
            await check(node, [wanting(number := number + 1) for _ in range(3)])
        assert attacker.seen
        assert node.malformed == 0
        assert daemon.worker.malformed == 0
    lines = [record.getMessage() for record in caplog.records]
    for reason in EDGE_REASONS:
        assert any(line.startswith(f"refused, {reason}: on f1/v/edge: ") for line in lines), reason
    for reason in WORKER_REASONS:
        assert any(line.startswith(f"refused, {reason}: edge edge: ") for line in lines), reason
    for counts in (node.refused, daemon.worker.refused):
        assert sum(counts.values()) > len(counts)
    said = sum(line.startswith("refused, ") for line in lines)
    assert said <= (len(node.refused) + len(daemon.worker.refused)) * (1 + PATIENCE / 10)


async def test_who_steals_a_workers_file_later_reads_nothing_that_was_generated(
    keys: KeyedDeployment, broker: PrivateBroker
) -> None:
    """`key wanted` after each message of the device, and its worker killed; then the file of another of the version."""
    engines = [FakeEngine(before=lambda _: time.sleep(0.01)) for _ in range(2)]
    seen: list[bytes] = []

    async def asks(link: Link) -> None:
        async for event in link.events():
            if isinstance(event, Inbound) and wanted_session(event.payload) is None:
                seen.append(event.payload)
                await link.publish("f1/v/edge", key_wanted(read_envelope(event.payload).session))

    wanted = (Subscription("f1/o/+/+"), Subscription("f1/d/+/+"))
    listens = LinkSettings(port=broker.port, client_id="k", subscriptions=wanted, inbound_queue=2**16)
    async with (
        linked(listens) as link,
        worker_at(mqtt_link, "w1", engines[0], at=at(broker, "w-k"), keys=keys.worker_file("w1")) as first,
        worker_at(mqtt_link, "w3", engines[1], at=at(broker, "w-l"), keys=keys.worker_file("w3")),
        edge_at(mqtt_link, at=at(broker, "e-k"), keys=keys.edge_file()) as node,
    ):
        asking = asyncio.create_task(asks(link))
        writing = asyncio.create_task(check(node, [wanting(number, limit=200) for number in range(8)]))
        await until(lambda: first.worker.machine.counters.decided > 200)
        await first.kill()
        generations = await writing
        assert sum(one.machine.counters.reopens for one in generations) >= 4
        assert not asking.done()
        asking.cancel()
    thief = WorkerKeys(keys.worker("w2"), lease=60, capacity=64)
    read: Counter[str] = Counter()
    for payload in seen:
        with contextlib.suppress(KeysRefused):
            message = CODEC.decode(thief.unwrap("edge", None, payload, 0.0)[0])
            read[type(message).__name__] += 1
            if isinstance(message, Open):
                assert (message.committed, message.draft) == ((), ())
            elif isinstance(message, Poll):
                assert (message.start, message.digest, message.tokens) == (0, 0, ())
            else:
                assert isinstance(message, Close)
    assert read["Open"] >= 8 + 4
    assert read["Poll"] >= 8


async def test_without_keys_one_forged_error_ends_a_text(memory: MemoryBroker) -> None:
    """The attacks above take effect where there are no keys."""
    engine = FakeEngine(before=lambda _: time.sleep(0.005))
    async with worker_at(memory.link, "w1", engine), edge_at(memory.link) as node:
        generation = node.generate(wanting(1, limit=400))
        await until(lambda: generation.machine.committed)
        engine.gate.clear()
        for payload in [*forged_verdicts(generation.session)][2::3]:
            memory.send("operator", Outbound("f1/v/edge", payload))
        _, finish = await read(generation)
    assert finish.error is not None
    assert "forged" in finish.error.message


async def test_another_worker_of_the_version_forges_no_verdict(
    keys: KeyedDeployment, broker: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a credential and the version's opening key, so it reads what opens say; it has not the worker's key."""
    rogue = WorkerKeys(keys.worker("w2"), lease=60, capacity=8)
    engine = FakeEngine(before=lambda _: time.sleep(0.005))
    async with (
        linked(hearing(broker)) as link,
        worker_at(mqtt_link, "w1", engine, at=at(broker, "w-2"), keys=keys.worker_file("w1")),
        edge_at(mqtt_link, at=at(broker, "e-2"), keys=keys.edge_file()) as node,
    ):
        generation = node.generate(wanting(3, limit=120))
        opened = await Reader(link).payload()
        message = CODEC.decode(rogue.unwrap("edge", "base", opened, 0.0)[0])
        assert isinstance(message, Open)
        await until(lambda: len(generation.machine.committed) >= 10)
        have = len(generation.machine.committed)
        for name in ("w1", None):
            claim = message.session, message.attempt, 0, have, (5, 6, 7), 0x12345678, Fin.NONE
            verdict = Verdict(*claim, 0, 0, name, 60 if name else 0)
            payload = rogue.wrap("edge", message.session, CODEC.encode(verdict), 0.0)
            await link.publish("f1/v/edge", payload, qos=1)
        await until(lambda: node.refused.get(KeyReason.FORGED, 0) >= 2)
        assert (await read(generation))[0] == alone(generation.request)
        assert generation.machine.counters.reopens == 0
        assert generation.machine.counters.diverged == 0
    assert "worker w2 speaks in the name of w1" in caplog.text


async def test_a_device_pays_for_the_keys_that_its_polls_have_a_worker_compute(
    keys: KeyedDeployment, broker: PrivateBroker
) -> None:
    """By the price of a poll and its answer alone all of these would be read."""
    device, polls = EdgeKeys(keys.edge("edge")), 200
    async with (
        linked(LinkSettings(port=broker.port, client_id="p")) as link,
        worker_at(
            mqtt_link,
            "w1",
            at=at(broker, "w-p"),
            keys=keys.worker_file("w1"),
            quotas=QuotaSettings(device_ms=0.001, device_burst_ms=polls * (MESSAGE + ANSWER + KILOBYTE)),
        ) as daemon,
    ):
        counted, counters = daemon.worker.admission, daemon.worker.machine.counters
        for session in range(1, polls + 1):
            device.begin(session, "base")
            poll = CODEC.encode(Poll(session, 1, 2, 0, 0, 5, (), 0))
            # A worker that was busy for a second may have changed its connection: QoS 1 is what outlives that.
            await link.publish("f1/d/w1/edge", device.introduced(session, poll), qos=1)
            if session % 20 == 0:  # they are admitted as they come, and charged when they are read
                await until(lambda session=session: counted.refused + counters.unknown >= session)  # type: ignore[misc]
        assert counted.refused
