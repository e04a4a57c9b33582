"""Answers that are left at a real broker for devices that were away: whole, once, for them alone, within bounds."""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from edge_node.generation import Generation, GenerationRequest, Resume
from edge_node.node import EdgeNode
from flexspec_mq import topics
from flexspec_mq.controller.plan import Plan
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.protocol.effects import Commit, Finish, FinishReason
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import PATIENCE, Daemon, FakeEngine, alone, edge_at, until, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment, at
from tests.transport.reading import retained

FOR = 600
PLAN = Plan(4, 2, 1)


@dataclass
class Site:
    """A broker, and with what its clients come: keys or none."""

    broker: PrivateBroker
    keys: KeyedDeployment | None
    devices: dict[str, Path]

    def worker(self, name: str = "w1", engine: FakeEngine | None = None, **settings: Any) -> Any:
        file = None if self.keys is None else self.keys.worker_file(name)
        return worker_at(mqtt_link, name, engine, at=at(self.broker, f"w-{name}"), keys=file, **settings)

    def device(self, name: str = "edge", **settings: Any) -> Any:
        if self.keys is not None and name not in self.devices:
            self.devices[name] = self.keys.edge_file(name)
        file = self.devices.get(name)
        return edge_at(mqtt_link, name, at=at(self.broker, f"e-{name}"), keys=file, **settings)

    async def kept(self, edge: str = "+") -> dict[str, bytes]:
        """Answers that the broker keeps, by topic."""
        return await retained(at(self.broker, "looks"), topics.delivery_filter(edge))


@pytest.fixture(params=["keys", "open"])
def site(request: pytest.FixtureRequest, tmp_path: Path, own_mosquitto: PrivateBroker) -> Site:
    return Site(own_mosquitto, KeyedDeployment(tmp_path) if request.param == "keys" else None, {})


def asking(number: int, *, limit: int = 300, deliver: int = FOR, plan: Plan = PLAN) -> GenerationRequest:
    return replace(wanting(number, limit=limit, plan=plan), deliver=deliver, kept=True)


def slow() -> FakeEngine:
    return FakeEngine(before=lambda _: time.sleep(0.003))


async def left(site: Site, request: GenerationRequest, *, after: int = 20, name: str = "edge") -> Resume:
    """Go away in the middle of a text, without a word to its worker; return what is left of it on the disk."""
    async with site.device(name) as node:
        generation = node.generate(request)
        await until(lambda: len(generation.machine.committed) >= after)
        session, private = generation.session, node.wire.private(generation.session)
        return Resume(session=session, life=1, private=private, committed=generation.machine.committed)


def delivered(daemon: Daemon) -> int:
    return daemon.worker.machine.counters.delivered


def goes_on(node: EdgeNode, request: GenerationRequest, resume: Resume) -> Generation:
    return node.generate(replace(request, resume=resume))


async def test_a_device_that_restarts_finds_its_answer_and_clears_it(site: Site) -> None:
    request = asking(1)
    async with site.worker(engine=slow()) as daemon:
        resume = await left(site, request)
        await until(lambda: delivered(daemon))
        topic = topics.delivery_topic("edge", resume.session)
        assert list(await site.kept()) == [topic]
        assert len(daemon.worker.machine.deliveries) == 1
        steps = len(daemon.engine.batches)
        async with site.device() as node:
            began = time.monotonic()
            generation = goes_on(node, request, resume)
            assert (*resume.committed, *(await text(generation))) == alone(request)
            assert time.monotonic() - began < 1.0
            assert generation.machine.counters.deliveries == 1
            await until(lambda: not daemon.worker.machine.deliveries)
            await until(lambda: not daemon.kept)
        assert len(daemon.engine.batches) == steps
        assert not await site.kept()
        assert set(node.refused) <= {KeyReason.NO_KEY}, "verdicts of before come before the text goes on"


async def text(generation: Generation) -> tuple[int, ...]:
    """Tokens that are committed in this life of the node."""
    tokens: list[int] = []
    async with asyncio.timeout(PATIENCE):
        async for event in generation:
            if isinstance(event, Finish):
                assert event.reason is FinishReason.LENGTH, event
                return tuple(tokens)
            assert isinstance(event, Commit)
            tokens += event.tokens
    raise AssertionError("a generation ended without a finish")
