"""Long bodies: read, checked and refused beside the event loop."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request

from broker.launcher import PrivateBroker
from edge_node.api.errors import ApiError
from edge_node.api.http.bodies import Bodies, parse_object
from edge_node.api.openai.requests import chat_request
from edge_node.api.settings import ApiSettings
from flexspec_mq.daemon.tasks import running
from tests.daemons import until
from tests.edge_node.api.served import never, said, served


def body(**more: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, **more}).encode()


def tool(schema: object) -> bytes:
    return body(tools=[{"type": "function", "function": {"name": "light", "parameters": schema}}])


def schema(count: int, **more: str) -> dict[str, object]:
    properties = {f"property_{at}": {"type": "string", **more} for at in range(count)}
    return {"type": "object", "properties": properties}


FORM = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema(20_000)}}
BODIES = {
    "a tool of 3.5 MB": (tool(schema(36_000, description="d" * 36)), "a grammar of "),
    "a tool of many lists": (tool({"type": "object", "default": [[]] * 400_000}), "a grammar of "),
    "a schema of 20,000 properties": (body(response_format=FORM), "schema too large"),
}


def took(data: bytes) -> float:
    """Processor time of reading a body."""
    before = time.thread_time()
    chat_request(parse_object(data))
    return time.thread_time() - before


async def test_long_bodies_are_bounded_all_together_and_take_their_turns() -> None:
    bodies, under_way = Bodies(ApiSettings(max_bodies=1000)), list[int]()

    async def read(size: int, *, ends: bool) -> bytes:
        parts = iter([{"type": "http.request", "body": bytes(size), "more_body": not ends}])

        async def receive() -> Any:
            return next(parts, None) or await never()

        headers = [(b"content-type", b"application/json")]
        return await bodies.read(Request({"type": "http", "headers": headers}, receive))

    async with running(read(800, ends=False), "a slow body"):
        await until(lambda: bodies.held == 800)
        with pytest.raises(ApiError, match="too many long requests") as raised:
            await read(201, ends=True)
        assert (raised.value.status, raised.value.retry_after) == (503, 1)
        assert len(await read(200, ends=True)) == 200
    assert len(await read(1000, ends=True)) == 1000

    def work() -> int:
        under_way.append(1)
        time.sleep(0.01)
        return len(under_way) - under_way.pop()

    assert await asyncio.gather(*(bodies.work(2**20, work) for _ in range(4))) == [0] * 4


@pytest.mark.parametrize("name", BODIES)
async def test_a_long_body_does_not_hold_up_the_event_loop_and_is_refused(
    mosquitto: PrivateBroker, name: str
) -> None:
    """Processor time of the loop's thread, which no busy machine changes, beside that of reading the body there."""
    data, why = BODIES[name]
    longest, reading = 0.0, min(took(data), took(data))

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    async with served(mosquitto) as api:
        await api.chat(max_tokens=1)  # all is loaded
        watching = asyncio.create_task(watch())
        headers = {"content-type": "application/json"}
        asking = asyncio.create_task(
            api.http.post(f"{api.url}/v1/chat/completions", content=data, headers=headers, timeout=None)
        )
        assert (await api.get("/healthz")).json()["status"] == "ok"
        answer = await asking
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    assert longest < 0.7 * reading
    assert why in said(answer, 400, "invalid_value")["message"]
