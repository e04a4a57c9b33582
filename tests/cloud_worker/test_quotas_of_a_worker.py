"""A device that takes all it can, at a real broker with TLS: others do not notice, and it is told."""

import asyncio
import logging
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Self

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks.attacks.line import MqttLine
from lab.benchmarks.attacks.ways import WAYS, Target
from lab.simulator.world import FINGERPRINT, VOCAB
from schemas.messages import Error, ErrorCode, Verdict
from tests.daemons import check, edge_at, until, wanting, worker_at

CODEC = Codec()


@pytest.fixture
def broker(tls_mosquitto: PrivateBroker) -> PrivateBroker:
    """A broker without users, where a device is who it says."""
    return tls_mosquitto


def ca_of(broker: PrivateBroker) -> Path:
    assert broker.settings.tls is not None
    return broker.settings.tls.ca


def to(broker: PrivateBroker) -> LinkFactory:
    def connect(settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        return mqtt_link(replace(settings, port=broker.port, tls=TlsSettings(ca_of(broker))))

    return connect


class Attacker:
    """A device that does things its own way; its calls wait, so they have threads of their own."""

    def __init__(self, broker: PrivateBroker, way: str) -> None:
        self.way = WAYS[way](Target("evil", "w1", "base", FINGERPRINT, "good", vocabulary=VOCAB))
        self.told: list[Verdict | Error] = []
        self._line = MqttLine(broker.port, ca_of(broker), "evil", "none")
        self._line.subscribe(topics.verdict_topic("evil"))

    async def sends(self, packets: int) -> None:
        await asyncio.to_thread(self._send, packets)

    async def hears(self, seconds: float = 0.05) -> None:
        await asyncio.to_thread(self._listen, seconds)

    def _send(self, packets: int) -> None:
        self._line.send(b"".join(islice(self.way.packets(time.monotonic()), packets)))

    def _listen(self, seconds: float) -> None:
        self._line.listen(seconds)
        for _, payload in self._line.heard:
            message = CODEC.decode(payload)
            assert isinstance(message, Verdict | Error)
            self.told.append(message)
            self.way.heard(message)
        self._line.heard.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.__exit__(None, None, None)


async def test_a_flood_is_not_read_and_its_sender_is_told(
    broker: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker_at(to(broker), "w1") as daemon, edge_at(to(broker), "good") as node:
        gate = daemon.worker.admission
        await check(node, [wanting(1)])
        with Attacker(broker, "acknowledged") as evil, caplog.at_level(logging.WARNING):
            began = time.monotonic()
            await evil.sends(20_000)
            await check(node, [wanting(number) for number in range(2, 6)])
            await until(lambda: gate.refused > 5000)
            await until(lambda: gate.told)
            while not any(one.code is ErrorCode.BUSY for one in evil.told if isinstance(one, Error)):
                await evil.hears()
            seconds = time.monotonic() - began
        told = [one for one in evil.told if isinstance(one, Error)]
        assert len(evil.told) == len(told) <= 2 * (1 + seconds)  # of its quota, and of what cannot be read
        busy = [one for one in told if one.code is ErrorCode.BUSY]
        assert all(one.retry >= 1000 and "of one device" in one.detail for one in busy)
        assert sum("edge evil is over its quota" in line for line in caplog.messages) == 1
        assert daemon.worker._link is not None
        assert daemon.worker._link.counters.inbound_refused == gate.refused
        # An attacker that rests is a device as any other.
        await until(lambda: gate.admit("f1/d/w1/evil", 10))
        await check(node, [wanting(7)])
