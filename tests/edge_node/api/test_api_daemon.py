"""Node and API together: from the start, without a broker, and to the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.server import serve_node
from edge_node.api.settings import ApiSettings
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy
from flexspec_mq.errors import LinkError, UsageError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import EOS, FINGERPRINT
from tests.daemons import PATIENCE, FakeDrafter, FakeEngine, until, worker_at
from tests.edge_node.api.served import PLAN, links_to, speech


async def daemon(
    broker_port: int,
    *,
    port: int = 0,
    name: str = "ad",
    give_up_after: float | None = None,
    started: Callable[[int], None] = lambda _: None,
) -> None:
    """Run a node and its API."""
    node = EdgeNode(EdgeSettings(edge=name, version=name), FakeDrafter(), FINGERPRINT, (EOS,))
    base = LinkSettings(
        port=broker_port, client_id=f"e-{name}", backoff=0.02, backoff_max=0.1, give_up_after=give_up_after
    )
    settings = ApiSettings(api_port=port, grace=2.0, link_patience=0.1)
    await serve_node(
        node, speech(), mqtt_link, base, policy=lambda: FixedPolicy(PLAN), settings=settings, started=started
    )


@asynccontextmanager
async def running(broker_port: int, name: str) -> AsyncIterator[tuple[asyncio.Task[None], str]]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(daemon(broker_port, name=name, started=port.set_result))
    try:
        yield run, f"http://127.0.0.1:{await asyncio.wait_for(port, PATIENCE)}"
    finally:
        run.cancel()
        await asyncio.wait([run], timeout=PATIENCE)


@contextmanager
def free_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can while the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_it_answers_while_the_broker_is_out_of_reach() -> None:
    with free_port() as nobody:
        async with running(nobody, "ad-early") as (run, url), httpx2.AsyncClient() as http:
            assert (await http.get(f"{url}/healthz")).status_code == 200
            ready = await http.get(f"{url}/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (
                503,
                "the edge node has no link to its broker",
            )
            answer = await http.post(f"{url}/v1/completions", json={"prompt": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unreachable")
            assert not run.done()


async def test_cancelling_it_tells_the_workers(mosquitto: PrivateBroker) -> None:
    engine = FakeEngine()
    async with worker_at(links_to(mosquitto), "ad-worker", engine, version="ad-end") as worker:
        async with running(mosquitto.port, "ad-end") as (run, url), httpx2.AsyncClient() as http:
            engine.gate.clear()
            async with asyncio.timeout(PATIENCE):
                while (await http.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            asking = asyncio.create_task(http.post(f"{url}/v1/completions", json={"prompt": "x"}))
            await until(lambda: worker.kept == 1)
            run.cancel()
            answer = await asking
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
            await asyncio.wait([run], timeout=PATIENCE)
            assert run.cancelled()
        engine.gate.set()
        await until(lambda: worker.kept == 0)
        assert worker.worker.machine.counters.closed == 1


async def test_a_port_that_is_taken_ends_it_before_the_broker_matters() -> None:
    with free_port() as nobody, free_port() as taken, pytest.raises(UsageError, match="is taken"):
        await asyncio.wait_for(daemon(nobody, port=taken), PATIENCE)


async def test_a_link_that_fails_for_good_ends_it() -> None:
    with free_port() as nobody, pytest.raises(LinkError):
        await asyncio.wait_for(daemon(nobody, give_up_after=0.2), PATIENCE)


async def test_a_link_that_fails_later_ends_it_too(own_mosquitto: PrivateBroker) -> None:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        daemon(own_mosquitto.port, name="ad-late", give_up_after=2.0, started=port.set_result)
    )
    async with httpx2.AsyncClient() as http, asyncio.timeout(PATIENCE):
        url = f"http://127.0.0.1:{await port}/readyz"
        while "no worker" not in (await http.get(url)).json()["reason"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    own_mosquitto.kill()
    with pytest.raises(LinkError):
        await asyncio.wait_for(run, PATIENCE)
