"""Clients that go away, ask twice, or do not read; and the end of the server."""

import asyncio
from typing import Any

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.openai.requests import chat_request
from edge_node.api.sending import reply
from edge_node.api.settings import ApiSettings
from edge_node.text.machine import End, Text
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import (
    RESPONSES,
    Served,
    finish,
    never,
    said,
    served,
    streamed,
    text_of,
    waiting_engine,
)

LONG: dict[str, Any] = {"max_tokens": 40_000, "ignore_eos": True}


async def begin(api: Served, **more: Any) -> tuple[httpx2.Response, Any]:
    """Open a long stream and read its first bytes."""
    headers = more.pop("headers", {})
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, **LONG, **more}
    request = api.http.build_request("POST", f"{api.url}/v1/chat/completions", json=body, headers=headers)
    answer = await api.http.send(request, stream=True)
    assert answer.status_code == 200
    parts = answer.aiter_bytes()
    await anext(parts)
    return answer, parts


async def test_clients_that_leave_cancel_up_to_the_worker_and_the_server_ends_with_an_event(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        (worker,) = api.daemons
        for stream in (False, True):  # before any text
            asking = asyncio.create_task(api.chat(stream=stream))
            await until(lambda: api.node.sessions == worker.kept == 1)
            asking.cancel()
            await until(lambda: api.node.sessions == 0 and len(api.api.texts) == 0)
            engine.gate.set()
            await until(lambda: worker.kept == 0)
            engine.gate.clear()
        engine.gate.set()
        answer, _ = await begin(api)
        assert (api.node.sessions, worker.kept) == (1, 1)
        await answer.aclose()
        await until(lambda: api.node.sessions == 0 and len(api.api.texts) == 0)
        await until(lambda: worker.kept == 0 and not engine.held)
        assert await api.ended("abort") == 3
        assert await api.answers(499) == 3
        answer, parts = await begin(api)
        api.run.cancel()
        done, _ = await asyncio.wait([api.run], timeout=10)
        assert done
        assert api.run.cancelled()
        last = b"".join([part async for part in parts]).decode().strip().split("\n\n")[-1]
        assert last.startswith('data: {"error":')
        assert '"code":"stopping"' in last
        await until(lambda: api.node.sessions == 0 and worker.kept == 0)
        await answer.aclose()
        with pytest.raises(httpx2.ConnectError):
            await api.chat()


async def test_a_key_is_one_text_and_free_when_that_failed(mosquitto: PrivateBroker) -> None:
    """Whose answer is told is whose error is told, too; keys as such: `tests/edge_node/text/test_texts.py`."""
    engine, key = waiting_engine(), {"idempotency-key": "k"}
    async with served(mosquitto, engine=engine) as api:
        opened = api.daemons[0].worker.machine.counters
        said(await api.chat(max_tokens=30, headers=key, wait=0.5), 503, "no_worker")
        await until(lambda: api.api.texts.outbox.counts == {})  # whoever asked was told
        before = opened.opened
        engine.gate.set()
        answer = (await api.chat(max_tokens=30, headers=key)).json()
        assert answer["usage"]["completion_tokens"] <= 30
        assert (await api.chat(max_tokens=30, headers=key)).json() == answer
        for other in ({"prompt": "two"}, {"stream": True}, {"seed": 1}):
            body: dict[str, Any] = {"max_tokens": 30, "headers": key, **other}
            said(await api.chat(**body), 422, "idempotency_key_reused")
        said(await api.post("/v1/completions", {"prompt": "one"}, **key), 422, "idempotency_key_reused")
        for bad in ("", "x" * 256):
            assert (await api.chat(headers={"idempotency-key": bad})).status_code == 400
        assert opened.opened == before + 1
        other_text = (await api.chat(max_tokens=30, headers={"idempotency-key": "k2"})).json()
        assert other_text["id"] != answer["id"]
    async with served(mosquitto, engine=FakeEngine(), version=api.version) as api:
        # Without a seed of the client's, key and body make one, so a node that knows nothing of it writes the same.
        again = (await api.chat(max_tokens=30, headers=key)).json()
        assert again["choices"] == answer["choices"]


def wanted(**more: Any) -> Any:
    return chat_request({"messages": [{"role": "user", "content": "x"}], "stream": True, **more})


def new() -> Text:
    return text_of(wanted())


async def test_a_reader_that_never_reads_is_taken_for_gone() -> None:
    text = new()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never()

    text.confirmed([("a", "device")])
    with pytest.raises(Exception, match="went away"):
        await asyncio.wait_for(
            reply([text], wanted(), RESPONSES, ApiSettings(send_timeout=0.05), never, send), 60
        )


async def test_a_silent_stream_shows_that_it_lives() -> None:
    text = new()
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    replying = asyncio.create_task(
        reply([text], wanted(), RESPONSES, ApiSettings(heartbeat=0.02), never, send)
    )
    await until(lambda: sent, 10.0)  # a status, though nothing has come
    text.confirmed([("a", "device")])
    await until(lambda: sum(part.startswith(b":") for part in sent) >= 2)
    text.confirmed([("b", "device")])
    finish(text, End("length"))
    await asyncio.wait_for(replying, 60)
    assert streamed(b"".join(sent).decode()) == "ab"
