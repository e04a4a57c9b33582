"""Node and API together: from the start, without a broker, and to the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.server import serve_node
from edge_node.api.settings import ApiSettings
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import LinkError, UsageError
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import EOS, FINGERPRINT
from tests.daemons import PATIENCE, FakeDrafter, FakeEngine, link_to, until, worker_at
from tests.edge_node.api.served import PLAN, links_to, said, speech
from tests.integration.processes import silent_port


@asynccontextmanager
async def served_at(
    broker_port: int, name: str = "ad", *, port: int = 0, give_up_after: float | None = None
) -> AsyncIterator[tuple[asyncio.Task[None], str]]:
    """Run a node and its API: what runs, and the API's address."""
    node = EdgeNode(EdgeSettings(edge=name, version=name), FakeDrafter(), FINGERPRINT, (EOS,))
    link = replace(link_to(f"e-{name}"), port=broker_port, give_up_after=give_up_after)
    settings = ApiSettings(api_port=port, grace=2.0)
    listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    policy = partial(FixedPolicy, PLAN)
    serving = serve_node(
        node, speech(), mqtt_link, link, policy=policy, settings=settings, started=listens.set_result
    )
    async with running(serving, "api") as run:
        await any_of(run, listens)
        yield run, f"http://127.0.0.1:{listens.result() if listens.done() else 0}"


async def test_it_answers_while_the_broker_is_out_of_reach() -> None:
    with silent_port() as nobody:
        async with served_at(nobody, "ad-early") as (run, url), httpx2.AsyncClient() as http:
            assert (await http.get(f"{url}/healthz")).status_code == 200
            ready = await http.get(f"{url}/readyz")
            assert ready.status_code == 503
            assert ready.json()["reason"] == "the edge node has no link to its broker"
            answer = await http.post(f"{url}/v1/completions", json={"prompt": "x", "wait": 0.1})
            said(answer, 503, "broker_unreachable")
            assert not run.done()


async def test_cancelling_it_tells_the_workers(mosquitto: PrivateBroker) -> None:
    engine = FakeEngine()
    async with worker_at(links_to(mosquitto), "ad-worker", engine, version="ad-end") as worker:
        async with served_at(mosquitto.port, "ad-end") as (run, url), httpx2.AsyncClient() as http:
            engine.gate.clear()
            async with asyncio.timeout(PATIENCE):
                while (await http.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            asking = asyncio.create_task(http.post(f"{url}/v1/completions", json={"prompt": "x"}))
            await until(lambda: worker.kept == 1)
            run.cancel()
            said(await asking, 503, "stopping")
            await asyncio.wait([run], timeout=PATIENCE)
            assert run.cancelled()
        engine.gate.set()
        await until(lambda: worker.kept == 0)
        assert worker.worker.machine.counters.closed == 1


async def test_a_port_that_is_taken_ends_it_before_the_broker_matters() -> None:
    with silent_port() as nobody, silent_port() as taken:
        async with served_at(nobody, port=taken) as (run, _):
            with pytest.raises(UsageError, match="is taken"):
                await asyncio.wait_for(run, PATIENCE)


@pytest.mark.parametrize("late", [False, True])
async def test_a_link_that_fails_for_good_ends_it(own_mosquitto: PrivateBroker, late: bool) -> None:
    if not late:
        own_mosquitto.kill()
    async with (
        served_at(own_mosquitto.port, "ad-late", give_up_after=2.0) as (run, url),
        httpx2.AsyncClient() as http,
    ):
        if late:
            async with asyncio.timeout(PATIENCE):
                while "no worker" not in (await http.get(f"{url}/readyz")).json()["reason"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            own_mosquitto.kill()
        with pytest.raises(LinkError):
            await asyncio.wait_for(run, PATIENCE)
