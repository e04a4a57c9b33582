"""Answers that are left at a real broker for devices that were away: whole, once, for them alone, within bounds."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.settings import QuotaSettings
from edge_node.generation import Generation, GenerationRequest, Resume
from edge_node.node import EdgeNode
from flexspec_mq import topics, waiting
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LinkRefused
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.protocol.effects import Commit, Finish, FinishReason
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import PATIENCE, Daemon, FakeEngine, alone, edge_at, until, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment, at
from tests.transport.proxy import proxy_to
from tests.transport.reading import connection_of, linked, retained

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

    def device(self, name: str = "edge", port: int | None = None, **settings: Any) -> Any:
        if self.keys is not None and name not in self.devices:
            self.devices[name] = self.keys.edge_file(name)
        file = self.devices.get(name)
        where = at(self.broker, f"e-{name}")
        return edge_at(mqtt_link, name, at=replace(where, port=port or where.port), keys=file, **settings)

    async def kept(self, edge: str = "+") -> dict[str, bytes]:
        """Answers that the broker keeps, by topic."""
        return await retained(at(self.broker, "looks"), topics.delivery_filter(edge))


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, own_mosquitto: PrivateBroker) -> Site:
    keyed = getattr(request, "param", "keys") == "keys"
    return Site(own_mosquitto, KeyedDeployment(tmp_path) if keyed else None, {})


with_and_without_keys = pytest.mark.parametrize("site", ["keys", "open"], indirect=True)


def asking(number: int, *, limit: int = 300, deliver: int = FOR, plan: Plan = PLAN) -> GenerationRequest:
    return replace(wanting(number, limit=limit, plan=plan, wait=FOR), deliver=deliver, persisted=True)


def slow() -> FakeEngine:
    return FakeEngine(before=lambda _: time.sleep(0.003))


async def left(site: Site, request: GenerationRequest, *, after: int = 20, name: str = "edge") -> Resume:
    """Go away in the middle of a text, without a word to its worker; return what is left of it on the disk."""
    async with site.device(name) as node:
        generation = node.generate(request)
        await until(lambda: len(generation.machine.committed) >= after)
        return rest(node, generation)


def rest(node: EdgeNode, generation: Generation) -> Resume:
    """Fields of a text that the disk keeps of it."""
    session, machine = generation.session, generation.machine
    return Resume(
        session=session,
        restarts=1,
        root=machine.root,
        private=node.wire.private(session),
        committed=machine.committed,
    )


def delivered(daemon: Daemon) -> int:
    return daemon.worker.machine.counters.delivered


def goes_on(node: EdgeNode, request: GenerationRequest, resume: Resume) -> Generation:
    return node.generate(replace(request, resume=resume))


async def text(generation: Generation) -> tuple[int, ...]:
    """Tokens that are committed in this incarnation of the node."""
    tokens: list[int] = []
    async with asyncio.timeout(PATIENCE):
        async for event in generation:
            if isinstance(event, Finish):
                assert event.reason is FinishReason.LENGTH, event
                return tuple(tokens)
            assert isinstance(event, Commit)
            tokens += event.tokens
    raise AssertionError("a generation ended without a finish")


@with_and_without_keys
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
            await until(lambda: len(node._answers))
            generation = goes_on(node, request, resume)
            assert (*resume.committed, *(await text(generation))) == alone(request)
            assert generation.machine.counters.deliveries == 1
            await until(lambda: not daemon.worker.machine.deliveries)
            await until(lambda: not daemon.kept)
        assert len(daemon.engine.batches) == steps
        assert (daemon.worker.machine.counters.opened, generation.machine.counters.opens) == (1, 0)
        assert not await site.kept()
        assert set(node.refused) <= {KeyReason.NO_KEY}, "verdicts of before come before the text goes on"


@pytest.mark.parametrize("restarts", [False, True])
async def test_who_was_cut_off_takes_its_answer_and_nothing_is_left(site: Site, restarts: bool) -> None:
    async with (
        AsyncExitStack() as workers,
        proxy_to(site.broker.host, site.broker.port) as link,
        site.device(port=link.port) as node,
    ):
        daemon = await workers.enter_async_context(site.worker(engine=slow()))
        generation = node.generate(asking(1))
        await until(lambda: len(generation.machine.committed) >= 20)
        link.stall()
        link.cut()
        await until(lambda: delivered(daemon))
        if restarts:
            await workers.aclose()
            daemon = await workers.enter_async_context(site.worker())
        link.resume()  # the broker has it in the device's session, and retained
        assert await text(generation) == alone(generation.request)
        await until(lambda: not daemon.worker.machine.deliveries)
        await until(lambda: not len(node._answers))
        async with asyncio.timeout(PATIENCE):
            while await site.kept():
                pass


async def test_a_worker_that_is_stopped_leaves_what_it_has_and_another_goes_on(site: Site) -> None:
    request = asking(1, limit=2000)
    async with site.worker("w1", slow()) as first:
        resume = await left(site, request)
        session = first.worker.machine.sessions["edge", resume.session]
        await until(lambda: session.away and len(session.chain) > len(resume.committed))
        first.worker.stop()  # as SIGTERM has it, with no time to drain
        await asyncio.wait_for(first.run, PATIENCE)
        written = len(session.chain)
        assert len(resume.committed) < written < request.limit
    assert len(await site.kept()) == 1
    async with site.worker("w2", quotas=QuotaSettings(deliver_for=0)) as second, site.device() as node:
        generation = goes_on(node, request, resume)
        assert (*resume.committed, *(await text(generation))) == alone(request)
        assert generation.machine.counters.deliveries == 1
        assert second.worker.machine.counters.decided < request.limit
        async with asyncio.timeout(PATIENCE):
            while await site.kept():  # the one that ends it clears what the other has left
                pass


async def test_a_device_that_left_keeps_no_place_that_others_want_and_loses_nothing(site: Site) -> None:
    """Its texts are left as far as they are written; when it is back they are fetched, and written on."""
    pace, places, limit = [0.05], 4, 600
    requests = [asking(number, limit=limit) for number in range(2 * places)]
    async with site.worker("w1", FakeEngine(before=lambda _: time.sleep(pace[0])), capacity=places) as daemon:
        sessions, counters = daemon.worker.machine.sessions, daemon.worker.machine.counters
        async with site.device() as node:
            writes = [node.generate(request) for request in requests]
            await until(lambda: sum(len(one.machine.committed) > 10 for one in writes) == places)
            resumes = [rest(node, one) for one in writes]
        await until(lambda: all(session.away for session in sessions.values()))
        async with site.device("other") as other:
            others = [other.generate(wanting(100 + number, limit=100_000)) for number in range(places)]
            await until(lambda: all(one.machine.committed for one in others))
            assert {edge for edge, _ in sessions} == {"other"}
            assert (counters.yielded, counters.delivered) == (places, places)
            for one in others:
                other.cancel(one)
        assert len(await site.kept("edge")) == places
        pace[0] = 0.0
        async with site.device() as node:
            back = [goes_on(node, request, resume) for request, resume in zip(requests, resumes, strict=True)]
            written = await asyncio.gather(*map(text, back))
            for request, resume, tokens in zip(requests, resumes, written, strict=True):
                assert (*resume.committed, *tokens) == alone(request)
            assert sum(one.machine.counters.deliveries for one in back) == places
            await until(lambda: not daemon.worker.machine.deliveries)
    assert not await site.kept("edge")


async def test_a_worker_that_is_killed_has_the_same_text_written_anew(site: Site) -> None:
    request = asking(1, limit=600)
    async with site.worker("w1", slow()) as first:
        resume = await left(site, request)
        session = first.worker.machine.sessions["edge", resume.session]
        await until(lambda: session.away)
        await first.kill()
    assert not await site.kept()
    async with site.worker("w1"), site.device() as node:
        generation = goes_on(node, request, resume)
        assert (*resume.committed, *(await text(generation))) == alone(request)
        assert generation.machine.counters.deliveries == 0


async def test_a_broker_that_loses_the_answer_costs_time_and_no_text(site: Site) -> None:
    request = asking(1)
    async with site.worker(engine=slow()) as daemon:
        resume = await left(site, request)
        await until(lambda: delivered(daemon))
        site.broker.kill()
        await asyncio.to_thread(site.broker.start)
        assert not await site.kept()
        async with site.device() as node:
            assert (*resume.committed, *(await text(goes_on(node, request, resume)))) == alone(request)


@with_and_without_keys
async def test_an_answer_of_no_text_is_given_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has lost its disk closes what it can read; under keys that is nothing, and it expires."""
    monkeypatch.setattr(waiting, "STARTS", 0.5)
    async with site.worker(engine=slow()) as daemon:
        await left(site, asking(1))
        await until(lambda: delivered(daemon))
        async with site.device() as node:
            ends = time.monotonic() + PATIENCE
            while not node.unclaimed and time.monotonic() < ends:  # over a link that never lasts
                await node.link.wait_up(PATIENCE)
                connection_of(node.link._link).abort("a test")
                await asyncio.sleep(0.2)
            assert node.unclaimed == 1
            if site.keys is None:
                await until(lambda: not daemon.worker.machine.deliveries)
            else:
                assert node.refused[KeyReason.NO_KEY]
                assert len(daemon.worker.machine.deliveries) == 1
    assert len(await site.kept()) == (site.keys is not None)


async def test_a_revoked_device_is_left_nothing_and_can_read_nothing(
    tmp_path: Path, own_mosquitto: PrivateBroker
) -> None:
    keys = KeyedDeployment(tmp_path)
    site = Site(own_mosquitto, keys, {})
    async with site.worker(engine=slow()) as daemon, linked(at(own_mosquitto, "statements")) as link:
        before = await left(site, asking(1))
        await until(lambda: delivered(daemon))
        (kept,) = (await site.kept()).values()
        resume = await left(site, asking(2, limit=1500))
        session = daemon.worker.machine.sessions["edge", resume.session]
        await until(lambda: session.away)
        statement = keys.revoke("edge")
        await link.publish(statement.topic, statement.payload, qos=1, retain=True)
        await until(lambda: delivered(daemon) == 2)  # it is written, and there is no key to seal it with
        await until(lambda: len(daemon.worker.machine.deliveries) == 1)
        assert list((await site.kept()).values()) == [kept]
        with pytest.raises(LinkRefused, match="this device was revoked"):
            async with site.device() as node:
                await asyncio.wait_for(node.wait_broken(), PATIENCE)
        stranger = KeyedDeployment(tmp_path, key=keys.key, opening=keys.opening).edge_file("edge")
        site.devices["edge"] = stranger  # of the same name, without the key of the session
        own_mosquitto.kill()
        await asyncio.to_thread(own_mosquitto.start)
        await link.wait_up(PATIENCE)
        await link.publish(topics.delivery_topic("edge", before.session), kept, qos=1, retain=True)
        async with site.device() as node:
            foreign = Resume(session=before.session, restarts=1, root=before.root, private=before.private)
            generation = goes_on(node, asking(1), foreign)
            await until(lambda: node.refused[KeyReason.FORGED])
            assert not generation.machine.counters.deliveries


async def test_an_answer_that_ends_while_the_broker_is_away_is_left_when_it_is_back(site: Site) -> None:
    request = asking(1)
    async with site.worker(engine=slow()) as daemon:
        resume = await left(site, request)
        session = daemon.worker.machine.sessions["edge", resume.session]
        await until(lambda: session.away)
        site.broker.kill()
        await until(lambda: delivered(daemon) >= 2)  # it is tried again and again
        await asyncio.to_thread(site.broker.start)
        async with asyncio.timeout(PATIENCE):
            while not await site.kept():
                pass
        steps = len(daemon.engine.batches)
        async with site.device() as node:
            assert (*resume.committed, *(await text(goes_on(node, request, resume)))) == alone(request)
        assert len(daemon.engine.batches) == steps
