"""A worker that follows a family: the real daemon, catalogue and fetching, around an engine without weights."""

import asyncio
import dataclasses
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest

from cloud_worker.engine.interface import Exactness
from cloud_worker.engine.thread import EngineThread
from cloud_worker.settings import WorkerSettings
from cloud_worker.versions.follower import FamilyFollower
from cloud_worker.versions.library import Library
from cloud_worker.versions.loader import HeadLoader
from cloud_worker.worker import CloudWorker
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from flexspec_mq import topics
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.signing import PrivateKey, seal
from flexspec_mq.catalogue.store import Store
from flexspec_mq.codec import Codec
from flexspec_mq.errors import PublishRefused
from flexspec_mq.heads.fetch import fetch_head
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import salted
from lab.testbed.memory_broker import MemoryBroker
from schemas.catalogue import FORMAT, Signed, VersionState
from schemas.status import VersionStatus, WorkerStatus
from tests.broker.deployments import as_client, good, made, running
from tests.daemons import PATIENCE, TARGET, Daemon, FakeEngine, alone, edge_at, link_to, read, until, wanting
from tests.families import FAMILY, Operator, simple

CODEC = Codec()
SALT = "salt"
"""The file of a head here: what is added to the seed of all texts that it writes."""


class HeadedEngine(FakeEngine):
    """The fake target with heads, each of which writes other texts."""

    def decide(self, item: WorkItem) -> tuple[int, ...]:
        salt = int(self.heads.get(item.version) or 0)
        identity = salted(item.identity, salt)
        return TARGET.forward(dataclasses.replace(item, identity=identity))


class SaltLoader:
    """Loads heads for `HeadedEngine`."""

    def __init__(self, engine: HeadedEngine, cache: Path) -> None:
        self._engine = engine
        self._cache = cache

    def load(self, name: str, digest: bytes, url: str, thread: EngineThread) -> Exactness:
        salt = (fetch_head(url, digest, self._cache) / SALT).read_text()
        if not salt.isdecimal():
            raise HeadError(f"{salt!r} is no number")
        thread.submit(partial(self._engine.hold, name, salt)).result()
        return "exact"

    def load_drafter(self, name: str, digest: bytes, thread: EngineThread) -> None:
        """Nothing: salt is no LoRA."""

    def drop(self, name: str, thread: EngineThread) -> None:
        thread.submit(partial(self._engine.drop, name)).result()


@dataclass
class Place:
    """A worker's machine, and the operator of its family."""

    folder: Path
    operator: Operator

    def salted(self, salt: str) -> bytes:
        return self.operator.head({SALT: salt.encode()}, **simple())

    def publish(
        self, name: str, digest: bytes, ago: float, state: VersionState = VersionState.STABLE
    ) -> None:
        """Change the catalogue; the operator sends it."""
        operator = self.operator
        operator.catalogue = editing.publish(
            operator.current, time.time() - ago, name=name, digest=digest, state=state
        )

    @asynccontextmanager
    async def worker(
        self,
        broker: MemoryBroker | LinkFactory,
        name: str = "w1",
        at: LinkSettings | None = None,
        status_every: float = 60.0,
    ) -> AsyncIterator[Daemon]:
        """Run a worker; on leaving it is killed, as far as a task can be."""
        connect = broker.link if isinstance(broker, MemoryBroker) else broker
        engine = HeadedEngine()
        store = Store(self.folder / name, FAMILY)
        family = FamilyFollower(
            Follower(FAMILY, self.operator.root.public, store.load()),
            store,
            Library("base", "exact"),
            cast(HeadLoader, SaltLoader(engine, self.folder / "cache")),
        )
        worker = CloudWorker(
            WorkerSettings(worker=name, drain=PATIENCE, status_every=status_every), engine, family
        )
        run = asyncio.create_task(worker.run(connect, at or link_to(f"w-{name}")))
        await asyncio.wait_for(worker.ready.wait(), PATIENCE)
        daemon = Daemon(worker, engine, run)
        try:
            yield daemon
        finally:
            engine.gate.set()
            if run.done():
                run.result()
            await daemon.kill()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A family of which version v1 is published, with 1000 as its salt."""
    found = Place(tmp_path, Operator(tmp_path / "heads"))
    found.operator.begin("v1", found.salted("1000"))
    return found


@asynccontextmanager
async def published(place: Place) -> AsyncIterator[tuple[MemoryBroker, Link]]:
    broker = MemoryBroker()
    async with broker.link(link_to("operator")) as link:
        await link.wait_up()
        await place.operator.publish(link)
        yield broker, link


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[tuple[MemoryBroker, Link, Daemon, EdgeNode]]:
    """A worker that serves v1, its operator's link, and an edge node."""
    async with (
        published(place) as (broker, link),
        place.worker(broker) as daemon,
        edge_at(broker.link) as node,
    ):
        await until(lambda: states(broker).get("v1") == "ready")
        yield broker, link, daemon, node


def said(broker: MemoryBroker, worker: str = "w1") -> dict[str, VersionStatus]:
    payload = broker.retained(f"f1/w/{worker}")
    assert payload is not None
    return {one.name: one for one in CODEC.decode_status(payload, WorkerStatus).versions}


def states(broker: MemoryBroker, worker: str = "w1") -> dict[str, str]:
    return {name: one.state for name, one in said(broker, worker).items()}


def of(version: str, number: int = 1, limit: int = 60) -> GenerationRequest:
    return dataclasses.replace(wanting(number, limit=limit), version=version)


def by(salt: int, request: GenerationRequest) -> tuple[int, ...]:
    """Text of a head alone."""
    sampling = msgspec.structs.replace(request.sampling, seed=request.sampling.seed + salt)
    return alone(dataclasses.replace(request, sampling=sampling))


async def test_a_version_of_the_catalogue_is_served_beside_the_workers_own(place: Place) -> None:
    """Until the worker is drained."""
    async with published(place) as (broker, _), place.worker(broker) as daemon, edge_at(broker.link) as node:
        await until(lambda: states(broker) == {"base": "ready", "v1": "ready"})
        assert said(broker)["v1"].digest == place.operator.current.versions[0].digest[:8].hex()
        texts = [node.generate(of(version, number)) for version in ("base", "v1") for number in (1, 2)]
        for text in texts:
            salt = 1000 if text.request.version == "v1" else 0
            assert (await read(text))[0] == by(salt, text.request)
        daemon.worker.stop()
        await asyncio.wait_for(daemon.run, PATIENCE)


async def test_an_update_and_a_rollback_move_no_running_text(place: Place) -> None:
    """v2 takes v1's place, v1 is retired while it writes, and comes again while it drains."""
    operator = place.operator
    async with serving(place) as (broker, link, daemon, node):
        running = node.generate(of("v1", limit=1000))
        await until(lambda: daemon.worker.machine.sessions_of("v1"))
        second = place.salted("2000")
        place.publish("v2", second, 50)
        await operator.publish(link)
        await until(lambda: states(broker) == {"base": "ready", "v1": "ready", "v2": "ready"})
        operator.catalogue = editing.retire(operator.current, time.time() - 40, name="v1")
        await operator.publish(link)
        await until(lambda: states(broker)["v1"] == "draining")
        late = node.generate(of("v1", 2))
        first = next(one.digest for one in operator.current.versions if one.name == "v1")
        place.publish("v1", first, 30)
        await operator.publish(link)
        await until(lambda: states(broker)["v1"] == "ready")
        assert daemon.worker.machine.live["v1"] >= 1
        for text in (running, late):
            assert (await read(text))[0] == by(1000, text.request)
        assert running.machine.counters.reopens == 0
        assert daemon.worker.machine.counters.opened == 2


async def test_by_a_key_set_that_expired_no_session_is_taken_until_a_later_one_comes(place: Place) -> None:
    """Its versions stay, and the text that is under way ends as it should."""
    keys = topics.keys_topic(FAMILY)
    async with (
        published(place) as (broker, link),
        place.worker(broker, status_every=0.2) as daemon,
        edge_at(broker.link) as node,
    ):
        await until(lambda: states(broker).get("v1") == "ready")
        daemon.engine.before = lambda _: time.sleep(0.01)
        running = node.generate(of("v1", limit=700))
        await until(lambda: daemon.worker.machine.sessions_of("v1"))
        ends = time.time() + 2
        await link.publish(keys, place.operator.keys(2, ends), qos=1, retain=True)
        await until(lambda: daemon.worker.not_ready)
        assert time.time() >= int(ends)
        assert daemon.worker.not_ready.startswith(f"key set 2 of {FAMILY} expired on")
        await until(lambda: b'"state":"draining"' in (broker.retained("f1/w/w1") or b""))
        assert (await read(running))[0] == by(1000, running.request)
        waits = node.generate(of("v1", 2))
        await asyncio.sleep(0.5)
        assert daemon.worker.machine.counters.opened == 1
        await link.publish(keys, place.operator.keys(3), qos=1, retain=True)
        assert (await read(waits))[0] == by(1000, waits.request)
        assert states(broker) == {"base": "ready", "v1": "ready"}


async def test_what_is_retired_leaves_its_share_and_its_head_after_its_last_text(place: Place) -> None:
    operator = place.operator
    async with serving(place) as (broker, link, daemon, node):
        running = node.generate(of("v1", limit=1000))
        await until(lambda: daemon.worker.machine.sessions_of("v1"))
        place.publish("v2", place.salted("7"), 50)
        operator.catalogue = editing.retire(operator.current, time.time() - 40, name="v1")
        await operator.publish(link)
        await until(lambda: states(broker)["v1"] == "draining")
        await until(lambda: "v1" not in node.directory.versions())
        assert (await read(running))[0] == by(1000, running.request)
        await until(lambda: states(broker) == {"base": "ready", "v2": "ready"})
        await until(lambda: daemon.engine.heads == {"v2": "7"})
        with pytest.raises(PublishRefused) as refused:
            await link.publish("f1/o/v1/operator", b"x", qos=1)
        assert refused.value.reason_code == 0x10


@pytest.mark.parametrize("harm", ["bad", "damaged"])
async def test_a_bad_head_is_refused_and_changes_nothing(place: Place, harm: str) -> None:
    operator = place.operator
    async with serving(place) as (broker, link, daemon, node):
        running = node.generate(of("v1", limit=1000))
        digest = place.salted("no number" if harm == "bad" else "5")
        if harm == "damaged":
            (operator.heads / digest.hex() / SALT).write_text("6")
        place.publish("v2", digest, 50, VersionState.CANARY)
        await operator.publish(link)
        await until(lambda: states(broker).get("v2") == "refused")
        why = said(broker)["v2"].why
        assert ("no number" if harm == "bad" else "is not the file") in why
        assert (await read(running))[0] == by(1000, running.request)
        assert running.machine.counters.reopens == 0
        assert daemon.engine.heads == {"v1": "1000"}


async def test_a_head_that_is_not_there_yet_is_served_once_it_is(place: Place) -> None:
    elsewhere = place.folder / "elsewhere"
    place.operator.heads.rename(elsewhere)
    async with published(place) as (broker, _), place.worker(broker):
        await until(
            lambda: "there is no manifest" in said(broker)["v1"].why if "v1" in said(broker) else False
        )
        assert states(broker)["v1"] == "loading"
        shutil.copytree(elsewhere, place.operator.heads)
        await until(lambda: states(broker)["v1"] == "ready")


async def test_a_worker_goes_to_no_url_that_a_catalogue_may_not_name_and_says_why_at_length(
    place: Place,
) -> None:
    """Once the catalogue names another one, the version is served. Which these are is tested in tests/heads."""
    operator = place.operator
    good = operator.current.heads
    url = f"http://127.0.0.1:9/{'x' * 200}"
    operator.catalogue = msgspec.structs.replace(operator.current, heads=url)
    async with published(place) as (broker, link), place.worker(broker):
        await until(lambda: "v1" in said(broker) and bool(said(broker)["v1"].reason))
        told = said(broker)["v1"]
        assert told.state == "loading"
        assert url in told.reason
        assert "nobody here has named that host" in told.reason
        operator.catalogue = msgspec.structs.replace(
            editing.renewed(operator.current, time.time() - 50), heads=good
        )
        await operator.publish(link)
        await until(lambda: states(broker)["v1"] == "ready")
        assert not said(broker)["v1"].reason


async def test_a_worker_comes_back_with_what_it_had_and_no_broker_or_heads(place: Place) -> None:
    async with published(place) as (broker, _), place.worker(broker):
        await until(lambda: states(broker).get("v1") == "ready")
    shutil.rmtree(place.operator.heads)
    empty = MemoryBroker()
    async with place.worker(empty), edge_at(empty.link) as node:
        await until(lambda: states(empty) == {"base": "ready", "v1": "ready"})
        text = node.generate(of("v1"))
        assert (await read(text))[0] == by(1000, text.request)


async def test_a_store_that_cannot_be_written_takes_nothing_up_until_it_can(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.STATUS", 0.2)
    in_the_way = place.folder / "w1" / f"{FAMILY}.lock"
    in_the_way.mkdir(parents=True)
    async with published(place) as (broker, _), place.worker(broker):
        await until(lambda: "nothing new is taken up" in caplog.text)
        assert states(broker) == {"base": "loading"}
        in_the_way.rmdir()
        await until(lambda: states(broker) == {"base": "ready", "v1": "ready"})


async def test_workers_bring_a_broker_back_that_lost_all(place: Place, tmp_path: Path) -> None:
    """On a deployment as `init` makes it; a device that starts afterwards reads all that is signed."""
    directory = made(tmp_path / "deployment", "--keys")
    good("add-worker", directory, "w1", "w2")
    good("add-publisher", directory, "release")
    good("add-device", directory, "alice")
    at = {path.name: as_client(path) for path in (directory / "hand-out").glob("*/*")}
    async with AsyncExitStack() as stack:
        with running(directory, tmp_path / "log"):
            publisher = await stack.enter_async_context(mqtt_link(at["release"]))
            await publisher.wait_up(PATIENCE)
            await place.operator.publish(publisher)
            workers = [
                await stack.enter_async_context(place.worker(mqtt_link, one, at[one])) for one in ("w1", "w2")
            ]
            await until(lambda: all(one.engine.heads for one in workers))
        shutil.rmtree(directory / "run")
        with running(directory, tmp_path / "log"):
            kept = await standing(at["alice"], f"f1/h/{FAMILY}", f"f1/k/{FAMILY}", "f1/i")
            assert kept[f"f1/h/{FAMILY}"] == place.operator.sealed()
            assert kept[f"f1/k/{FAMILY}"] == place.operator.keys()
            assert kept["f1/i"]


def see(follower: Follower, topic: str, payload: bytes) -> None:
    """A message comes to a device."""
    receive = follower.receive_keys if topic == f"f1/k/{FAMILY}" else follower.receive_catalogue
    if isinstance(outcome := receive(payload, time.time()), Accepted):
        follower.adopt(outcome.record)


async def standing(at: LinkSettings, *topics: str) -> dict[str, bytes]:
    """Messages retained on topics, once it is on all of them."""
    found: dict[str, bytes] = {}
    async with mqtt_link(at) as link, asyncio.timeout(PATIENCE):
        for topic in topics:
            await link.subscribe(topic)
        async for event in link.events():
            if isinstance(event, Inbound):
                found[event.topic] = event.payload
            if found.keys() == set(topics):
                return found
    raise AssertionError(found)


async def test_what_a_malicious_worker_retains_is_replaced_and_believed_by_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older, forged, cleared, or of a key set or format that is said to come: the newest stands again, each time after
    a message of one of the workers."""
    monkeypatch.setattr("flexspec_mq.waiting.RETRY_AWAITED", 0.1)
    operator = place.operator
    catalogue, keys = f"f1/h/{FAMILY}", f"f1/k/{FAMILY}"
    older = operator.sealed()
    place.publish("v2", place.salted("2"), 50)
    forged = dataclasses.replace(operator, online=PrivateKey.generate(), root=PrivateKey.generate())
    forged.catalogue = editing.retire(operator.current, time.time() - 40, name="v1")
    later = msgspec.structs.replace(forged.current, key_set=9)
    body = msgspec.msgpack.decode(forged.sealed(), type=Signed)
    fields = [FORMAT + 1, *msgspec.msgpack.decode(body.body)[1:]]
    another = msgspec.msgpack.encode(msgspec.structs.replace(body, body=msgspec.msgpack.encode(fields)))
    lies = [
        *(
            (catalogue, lie)
            for lie in (older, b"", b"noise", forged.sealed(), seal(later, [forged.online]), another)
        ),
        *((keys, lie) for lie in (b"", b"noise", forged.keys())),
    ]
    rightful = {catalogue: operator.sealed(), keys: operator.keys()}
    async with published(place) as (broker, link), place.worker(broker), place.worker(broker, "w2"):
        await until(lambda: all("v2" in states(broker, one) for one in ("w1", "w2")))
        for topic in rightful:
            await link.subscribe(topic)
        device = Follower(FAMILY, operator.root.public)
        see(device, keys, rightful[keys])
        for topic, lie in lies:
            await link.publish(topic, lie, qos=1, retain=True)
            assert broker.retained(topic) != rightful[topic]
            see(device, topic, lie)  # the older one it takes, as it has seen no other yet
            await until(lambda topic=topic: broker.retained(topic) == rightful[topic])  # type: ignore[misc]
            see(device, topic, rightful[topic])
            assert device.catalogue == operator.current
        await asyncio.sleep(1.0)
        assert {topic: broker.retained(topic) for topic in rightful} == rightful
        assert states(broker) == states(broker, "w2") == {"base": "ready", "v1": "ready", "v2": "ready"}
        put_back = link.counters.received - len(rightful) - len(lies)
        assert len(lies) <= put_back <= 2 * len(lies)
        # Who never stops is answered ever more seldom: 40 times by two workers without the back-off.
        received, noise = link.counters.received, 200
        for _ in range(noise):
            await link.publish(catalogue, b"noise", qos=1, retain=True)
            await asyncio.sleep(0.01)
        assert link.counters.received - received - noise <= 16
        await until(lambda: broker.retained(catalogue) == rightful[catalogue])
