"""Sites with brokers of their own: commands make them, and texts cross the bridges as if there were one broker."""

import asyncio
import json
import socket
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.announcing import Announcer
from broker.deployment.folder import Deployment
from broker.serving import DeploymentServer
from broker.settings import ClientLimits, Listener
from edge_node.generation import Resume
from flexspec_mq import topics
from flexspec_mq.daemon.children import sockets_of
from flexspec_mq.transport.arguments import LinkOptions, link_settings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from tests.broker.deployments import good, made, run
from tests.daemons import PATIENCE, FakeEngine, check, edge_at, until, wanting, worker_at
from tests.transport.proxy import proxy_to
from tests.transport.reading import retained


class Sites:
    """A central broker with worker w1; site a with device d1, and site b with worker w2 and device d2."""

    def __init__(self, folder: Path) -> None:
        self.centre = made(folder / "centre", "--keys")
        self.ports = {name: free_port() for name in "ab"}
        for name, port in self.ports.items():
            good("add-site", self.centre, name, "--address", f"localhost:{port}")
        good("add-worker", self.centre, "w1", "--version", "base")
        good("add-worker", self.centre, "w2", "--version", "base", "--site", "b")
        good("add-device", self.centre, "d1", "--site", "a")
        good("add-device", self.centre, "d2", "--site", "b")

    def bundle(self, role: str, name: str) -> Path:
        return self.centre / "hand-out" / role / name

    def client(self, role: str, name: str) -> tuple[LinkSettings, dict[str, Any]]:
        """Link and the settings with files that a client's own file names."""
        folder = self.bundle(role, name)
        file = folder / ("cloud.toml" if role == "worker" else "edge.toml")
        said = tomllib.loads(file.read_text())
        at = LinkOptions(
            broker=said["broker"], username=name, password_file=folder / "password", tls_ca=folder / "ca.crt"
        )
        files: dict[str, Any] = {key: folder / said[key] for key in ("keys", "share_groups") if key in said}
        return link_settings(at, f"t-{name}"), files


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return Sites(tmp_path_factory.mktemp("sites"))


def login(folder: Path) -> tuple[str | Path, ...]:
    return "--username", folder.name, "--password-file", folder / "password", "--ca", folder / "ca.crt"


def prompts(engine: FakeEngine) -> set[tuple[int, ...]]:
    return {prompt for batch in engine.batches for prompt in batch}


@contextmanager
def serving(folder: Path) -> Iterator[DeploymentServer]:
    """The broker of a folder, as ``flexspec-broker run`` has it, in this process."""
    deployment, listener = Deployment(folder), Listener(**tomllib.loads((folder / "broker.toml").read_text()))
    with deployment.applied.running(), Announcer() as announcer:
        server = DeploymentServer(deployment, listener, ClientLimits(), announcer)
        with server.broker:
            server.begin()
            yield server


def sends_at_once(server: DeploymentServer) -> bool:
    """Whether Nagle's algorithm is off on all connections, also those that Mosquitto makes itself."""
    assert server.broker.pid is not None
    return all(
        each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for each in sockets_of(server.broker.pid)
        if each.family == socket.AF_INET and not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


async def test_texts_cross_bridges_and_outlive_them(sites: Sites, caplog: pytest.LogCaptureFixture) -> None:
    """Each open goes to one worker, wherever it is; what is under way when a bridge breaks is lost nowhere."""
    port = int(Deployment(sites.centre).load().address.split(":")[1])
    async with proxy_to("127.0.0.1", port) as proxy:
        here = sites.bundle("site", "a") / "identities.json"
        said = here.read_text()
        here.write_text(said.replace(f":{port}", f":{proxy.port}"))
        with (
            serving(sites.centre),
            serving(sites.bundle("site", "a")) as site_a,
            serving(sites.bundle("site", "b")) as site_b,
        ):
            await go_on(sites, proxy.cut)
            assert sends_at_once(site_a)
            assert sends_at_once(site_b)
        here.write_text(said)
    assert "was refused" not in caplog.text


async def go_on(sites: Sites, cut: Callable[[], None]) -> None:
    workers = {name: FakeEngine() for name in ("w1", "w2")}
    (at1, files1), (at2, files2) = (sites.client("worker", name) for name in workers)
    (near, near_files), (far, far_files) = (sites.client("edge", name) for name in ("d1", "d2"))
    async with (
        worker_at(mqtt_link, "w1", workers["w1"], at1, **files1),
        worker_at(mqtt_link, "w2", workers["w2"], at2, **files2) as w2,
        edge_at(mqtt_link, "d1", at=near, **near_files) as d1,
        edge_at(mqtt_link, "d2", at=far, **far_files) as d2,
    ):
        await until(lambda: len(d1.directory.online()) == 2 and len(d2.directory.online()) == 1)
        texts, said = await asyncio.gather(
            check(d1, [wanting(number) for number in range(8)]),
            asyncio.to_thread(run, "check", f"localhost:{near.port}", *login(sites.bundle("edge", "d1"))),
        )
        assert "said 'online': w1 " in said.stdout
        assert ", w2 " in said.stdout
        if all(text.machine.counters.opens == 1 for text in texts):  # on a busy machine some are opened again
            assert not prompts(workers["w1"]) & prompts(workers["w2"])
            assert len(prompts(workers["w1"])) == len(prompts(workers["w2"])) == 4
        await check(d2, [wanting(number) for number in range(8, 12)])
        stay = {wanting(number).prompt for number in range(8, 12)}
        assert prompts(workers["w2"]) >= stay, "opens of a site with a worker of the version stay there"
        assert not prompts(workers["w1"]) & stay

        workers["w1"].gate.clear()
        under_way = asyncio.create_task(check(d1, [wanting(number, limit=200) for number in range(12, 16)]))
        await until(lambda: workers["w1"].entered.is_set() and d1.sessions == 4)
        cut()
        workers["w1"].gate.set()
        await under_way
        await w2.kill()
        await until(lambda: len(d1.directory.online()) == 1)  # by its will, over both bridges


@contextmanager
def all_serving(sites: Sites) -> Iterator[None]:
    with serving(sites.centre), serving(sites.bundle("site", "a")), serving(sites.bundle("site", "b")):
        yield


async def test_an_answer_waits_at_the_site_of_its_device_and_is_cleared_everywhere(sites: Sites) -> None:
    (at2, files2), (near, near_files) = sites.client("worker", "w2"), sites.client("edge", "d1")
    request = replace(wanting(1, limit=200), deliver=600, persisted=True)
    slow = FakeEngine(before=lambda _: time.sleep(0.005))
    answers, statuses = topics.delivery_filter("d1"), topics.worker_status_topic("w2")
    with all_serving(sites):
        async with worker_at(mqtt_link, "w2", slow, at2, **files2) as w2:
            async with edge_at(mqtt_link, "d1", at=near, **near_files) as device:
                await until(device.directory.online)
                text = device.generate(request)
                await until(lambda: text.machine.committed)
                private, root = device.wire.private(text.session), text.machine.root
                resume = Resume(session=text.session, restarts=1, root=root, private=private)
            async with asyncio.timeout(PATIENCE):
                while not (kept := await retained(near, answers)):
                    assert not w2.worker.machine.counters.closed
            assert list(kept) == [topics.delivery_topic("d1", text.session)]
            async with edge_at(mqtt_link, "d1", at=near, **near_files) as device:
                (text,) = await check(device, [replace(request, resume=resume)])
                assert text.machine.counters.deliveries == 1
                await until(lambda: not w2.worker.machine.deliveries)
            async with asyncio.timeout(PATIENCE):
                while await retained(near, answers):
                    pass
    with all_serving(sites):  # each bridge carries again what its brokers keep
        async with asyncio.timeout(PATIENCE), worker_at(mqtt_link, "w2", slow, at2, **files2):
            while b'"online"' not in (await retained(near, statuses)).get(statuses, b""):
                pass
        assert not await retained(near, answers)


def test_a_site_is_changed_at_the_centre(sites: Sites) -> None:
    """Its own folder takes no changes; those who are let in there are no others' business."""
    folder = sites.bundle("site", "a")
    known = json.loads((folder / "identities.json").read_text())
    assert list(known["clients"]) == ["d1"]
    assert not known["share_key"], "who knows a group can take what it is sent"
    assert not known["share_groups"]
    other = json.loads((sites.bundle("site", "b") / "identities.json").read_text())
    assert list(other["share_groups"]) == ["base"]
    for arguments, words in (
        (("add-device", folder, "d3"), "is the broker of site a"),
        (("add-device", sites.centre, "d3", "--site", "c"), "is no site of this deployment"),
        (("add-worker", sites.centre, "w3", "--site", "a"), "versions that are named"),
        (("add-site", sites.centre, "c", "--address", "nowhere"), "nowhere"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
    good("revoke", sites.centre, "d1")
    assert not json.loads((folder / "identities.json").read_text())["clients"]
