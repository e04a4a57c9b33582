"""Events of a node for whoever looks at it, over real HTTP and a real broker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from broker.launcher import PrivateBroker
from edge_node.api.views.events import STREAMS
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.transport.base import LinkSettings
from lab.testbed.link.proxy import proxy_link
from schemas.node import EVENTS
from schemas.status import EdgeStatus
from tests.daemons import PATIENCE, until
from tests.edge_node.api.served import Served, alone, content, said, served, waiting_engine
from tests.edge_node.families import CANARY, STABLE, Family, publisher, version
from tests.transport.reading import linked


class Watched:
    """A client of the events, and all that it was ever told."""

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = {kind: [] for kind in EVENTS}
        self.ended = self.lives = False

    async def until(self, kind: str, condition: Callable[[Any], Any]) -> Any:
        """Wait for an event of a kind, from now on or the newest one."""
        told = self.told[kind]
        at = max(len(told) - 1, 0)
        await until(lambda: any(condition(event) for event in told[at:]))
        return next(event for event in told[at:] if condition(event))

    async def read(self, api: Served) -> None:
        """Read the stream to its end."""
        async with api.http.stream("GET", f"{api.url}/v1/events", headers=api.key) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                self.lives |= line.startswith(": ")
                if line.startswith("data: "):
                    self.told[kind].append(msgspec.json.decode(line[6:], type=EVENTS[kind], strict=True))
        self.ended = True


@asynccontextmanager
async def watched(api: Served) -> AsyncIterator[Watched]:
    found = Watched()
    reading = asyncio.create_task(found.read(api))
    try:
        await found.until("fleet", bool)
        yield found
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def test_a_text_is_seen_from_its_queue_to_its_end_and_nobody_sees_what_it_says(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, api_key="secret") as api, watched(api) as seen:
        said(await api.get("/v1/events"), 401, "invalid_api_key")
        first = seen.told["node"][0]
        assert (first.edge, first.model, first.texts, first.link.up) == (api.node.name, api.version, 0, True)
        (worker,) = (await seen.until("fleet", lambda fleet: fleet.workers)).workers
        assert [version.name for version in worker.status.ready] == [api.version]
        body = {"messages": [{"role": "user", "content": "hello"}], "seed": 3, "max_tokens": 400}
        asking = asyncio.create_task(
            api.post("/v1/chat/completions", {**body, "ignore_eos": True}, **api.key)
        )
        await seen.until("node", lambda node: node.texts == 1)
        await seen.until("text", lambda text: text.figures is not None and not text.figures.tokens)
        engine.gate.set()
        answer = await asking
        over = await seen.until("text", lambda text: text.state == "over")
        assert content(answer) == alone("hello", 3, 400, ignore_eos=True)
        assert answer.json()["id"].endswith(over.id)
        ours = answer.json()["usage"]["flexspec"]
        assert (over.reason, over.figures.tokens, over.figures.rounds) == ("length", 400, ours["rounds"])
        (planned,) = (await seen.until("plan", lambda plan: not plan.data[0].under_way)).data
        assert planned.version == api.version
        await seen.until("node", lambda node: (node.texts, node.tokens) == (0, 400))
        before = len(seen.told["text"]), len(seen.told["node"])
        await asyncio.sleep(0.6)
        assert (len(seen.told["text"]), len(seen.told["node"])) == before, "what does not change is not told"
        engine.gate.clear()
        asking = asyncio.create_task(api.post("/v1/chat/completions", body, **api.key))
        await seen.until("text", lambda text: text.figures is not None and not text.figures.tokens)
        asking.cancel()
        await seen.until("text", lambda text: text.why == "whoever asked for it is gone")
        engine.gate.set()


async def test_an_outage_and_who_else_is_there_are_seen_while_somebody_looks(
    mosquitto: PrivateBroker,
) -> None:
    codec, topic = Codec(), topics.edge_status_topic("other")
    other = EdgeStatus(state="online", epoch=1, at=1.0, edge="other")
    async with (
        linked(LinkSettings(port=mosquitto.port, client_id="other")) as link,
        proxy_link("4g", ("127.0.0.1", mosquitto.port)) as proxy,
        served(mosquitto, through=proxy.port) as api,
    ):
        async with watched(api) as seen:
            await seen.until("fleet", lambda fleet: api.node.name in [one.name for one in fleet.devices])
            await link.publish(topic, codec.encode_status(other), retain=True)
            await seen.until("fleet", lambda fleet: "other" in [one.name for one in fleet.devices])
            await link.publish(topic, b"", retain=True)
            await seen.until("fleet", lambda fleet: "other" not in [one.name for one in fleet.devices])
            proxy.stall(1.5)
            proxy.cut()
            down = await seen.until("node", lambda node: not node.link.up)
            assert "no link" in down.not_ready
            up = await seen.until("node", lambda node: node.link.up)
            assert up.link.losses == down.link.losses >= 1
        await until(lambda: not api.node.devices.watchers)
        await until(lambda: not api.node.devices.online())


async def test_a_canary_is_seen_with_what_changed_and_streams_end_with_the_server(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    family = Family()
    own, new = version(f"{family.name}-a", STABLE), version(f"{family.name}-b", CANARY, 20)
    async with (
        publisher(mosquitto, family) as publish,
        served(mosquitto, version=own.name, family=family.followed(tmp_path), heartbeat=0.3) as api,
        watched(api) as seen,
    ):
        assert seen.told["fleet"][-1].catalogue.state == "none"
        await publish.keys()
        await publish.catalogue(own)
        (shown,) = (
            await seen.until("fleet", lambda fleet: fleet.versions and fleet.versions[0].workers)
        ).versions
        assert (shown.name, shown.state, shown.workers) == (own.name, "stable", 1)
        await publish.catalogue(own, new)
        fleet = await seen.until("fleet", lambda fleet: len(fleet.versions) == 2)
        assert [change.changes for change in fleet.history] == [
            [f"{new.name}: canary 20 %"], [f"{own.name}: stable"]
        ]  # fmt: skip
        others = [asyncio.create_task(Watched().read(api)) for _ in range(STREAMS - 1)]
        await until(lambda: api.node.devices.watchers == STREAMS)
        said(await api.get("/v1/events"), 429, "too_many_streams")
        await until(lambda: seen.lives)
        api.run.cancel()
        await until(lambda: seen.ended and all(task.done() for task in others), PATIENCE)
