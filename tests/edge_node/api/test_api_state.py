"""State of a node as its users see it: online, degraded, offline, since when, and what waits."""

import asyncio
import io
import time
from typing import Any

from rich.console import Console

from broker.launcher import PrivateBroker
from edge_node.link_state import LinkState
from flexspec_mq import topics
from flexspec_mq.chat.overview import Overview, Screenful
from flexspec_mq.codec import Codec
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from flexspec_mq.transport.base import LinkSettings
from schemas.status import EdgeStatus
from tests.daemons import FakeDrafter, FakeEngine, until, worker_at
from tests.edge_node.api.served import Served, alone, content, links_to, served
from tests.edge_node.api.test_api_events import watched
from tests.transport.reading import Reader, linked

CUT = 3.5
"""Seconds; a text that is silent for two says whom it waits for."""


async def connection(api: Served) -> tuple[int, dict[str, Any]]:
    answer = await api.get("/readyz")
    return answer.status_code, answer.json()["connection"]


async def until_state(api: Served, state: str) -> dict[str, Any]:
    """Wait for a state by the probe."""
    while True:
        status, told = await connection(api)
        if told["state"] == state:
            assert (status == 200) == (state == "online" or "wait" in told["why"])
            return told
        await asyncio.sleep(0.02)


async def test_an_outage_that_the_sessions_are_not_told_yet_has_just_begun(mosquitto: PrivateBroker) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as way,
        linked(LinkSettings(port=way.port, client_id="page")) as link,
    ):
        state = LinkState()
        with state.using(link):
            state.up()
            await asyncio.sleep(0.05)
            assert state.seconds >= 0.05
            way.stall(60.0)
            way.cut()
            await until(lambda: not state.is_up)
            assert (state.seconds, state.down_for) == (0.0, 0.0)


async def test_an_outage_is_told_while_it_lasts_and_when_it_is_over(mosquitto: PrivateBroker) -> None:
    slow = FakeEngine(lambda _: time.sleep(0.02))
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        served(mosquitto, engine=slow, drafter=FakeDrafter(accuracy=1.0), through=link.port) as api,
        linked(LinkSettings(port=mosquitto.port, client_id="operator")) as operator,
    ):
        online = await until_state(api, "online")
        assert online["outage"] is None
        asked: dict[str, Any] = {"seed": 3, "max_tokens": 400, "ignore_eos": True, "offline": "provisional"}
        asking = asyncio.create_task(api.chat(**asked))
        await until(lambda: any(view.figures and view.figures.tokens for view in api.api.texts.views()))
        cut = time.time()
        link.stall(CUT)
        link.cut()
        offline = await until_state(api, "offline")
        assert cut - 0.1 <= offline["since"] <= time.time()
        assert offline["why"] == "the edge node has no link to its broker"
        while not (offline := (await connection(api))[1])["waiting"]:
            assert offline["state"] == "offline"
            await asyncio.sleep(0.02)
        assert offline["waiting"] == 1
        answer = await asking
        assert content(answer) == alone("hello", 3, 400, ignore_eos=True)
        online = await until_state(api, "online")
        outage = online["outage"]
        assert 0 < outage["seconds"] <= time.time() - cut
        assert abs(outage["ended"] - offline["since"] - outage["seconds"]) < 1.0
        assert outage["ended"] <= online["since"] + 1.0
        assert await api.metric('flexspec_edge:state{state="online"}') == 1
        assert await api.metric('flexspec_edge:state{state="offline"}') == 0
        assert await api.metric("flexspec_edge:offline_seconds_total") >= outage["seconds"]
        took = answer.json()["usage"]["flexspec"]
        assert took["provisional"] >= took["provisional_confirmed"] > 0
        for name in ("provisional", "provisional_confirmed"):
            figure = f'flexspec_edge:{name}_tokens_total{{model_name="{api.version}"}}'
            assert await api.metric(figure) == took[name]
        async with watched(api) as seen:
            (plan,) = (await seen.until("plan", bool)).data
        assert 0 < plan.estimates["provisional"].value <= 1
        # The operator reads it by the retained status, and that nothing waits any more.
        await operator.subscribe(topics.edge_status_topic(api.node.name))
        statuses = Reader(operator)
        while (status := Codec().decode_status(await statuses.payload(), EdgeStatus)).waiting:
            pass
        assert status.outage is not None
        assert abs(status.outage.seconds - outage["seconds"]) < 0.5


async def test_requests_in_the_outbox_are_counted_by_state(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, watched(api) as seen:
        for key in ("one", "other"):
            await api.chat(max_tokens=5, headers={"idempotency-key": key})
        await seen.until("node", lambda node: node.outbox == {"done": 2})
        engine = api.daemons[0].engine
        engine.gate.clear()
        asking = asyncio.create_task(api.chat(max_tokens=9, headers={"idempotency-key": "left"}))
        await until(lambda: api.node.sessions)
        asking.cancel()
        engine.gate.set()
        node = await seen.until("node", lambda node: "unread" in node.outbox)
        assert node.outbox == {"done": 2, "unread": 1}
        for state, count in {"done": 2, "unread": 1, "queued": 0, "stale": 0}.items():
            assert await api.metric(f'flexspec_edge:outbox{{state="{state}"}}') == count
        shown = io.StringIO()
        Console(file=shown, width=100).print(Screenful(Overview(node=node), api.url))
        assert "outbox · 1 unread" in shown.getvalue()


async def test_a_node_whom_nobody_serves_is_degraded(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, workers=0) as api:
        degraded = await until_state(api, "degraded")
        assert degraded["why"] == f"no worker of {api.version} is known to be online"
        answer = await api.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, degraded["why"])
        began = time.time()
        async with worker_at(links_to(mosquitto), "state-1", FakeEngine(), version=api.version):
            online = await until_state(api, "online")
            assert degraded["since"] < began <= online["since"] + 1.0
            assert not online["why"]
        await until_state(api, "degraded")
