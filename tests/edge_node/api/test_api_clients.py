"""Clients that go away, ask twice, or do not read; and the end of the server."""

import asyncio
from typing import Any

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.requests import chat_request
from edge_node.api.sending import reply
from edge_node.api.settings import ApiSettings
from edge_node.text.machine import End, Text
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import (
    RESPONSES,
    Served,
    events,
    finish,
    never,
    said,
    served,
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


async def test_a_client_that_leaves_a_stream_cancels_up_to_the_worker(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        answer, _ = await begin(api)
        assert api.node.sessions == 1
        assert api.daemons[0].kept == 1
        await answer.aclose()
        await until(lambda: api.node.sessions == 0 and len(api.api.texts) == 0)
        await until(lambda: api.daemons[0].kept == 0 and not api.daemons[0].engine.held)
        assert await api.ended("abort") == 1
        assert await api.answers(499) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_any_text(mosquitto: PrivateBroker, stream: bool) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        asking = asyncio.create_task(api.chat(stream=stream))
        await until(lambda: api.node.sessions == 1)
        asking.cancel()
        await until(lambda: api.node.sessions == 0 and len(api.api.texts) == 0)
        engine.gate.set()
        await until(lambda: api.daemons[0].kept == 0)
        assert await api.answers(499) == 1


async def test_the_same_key_attaches_to_the_text_that_is_written(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    key = {"idempotency-key": "k1"}
    async with served(mosquitto, engine=engine) as api:
        first = asyncio.create_task(api.chat(max_tokens=30, headers=key))
        await until(lambda: api.node.sessions == 1)
        second = asyncio.create_task(api.chat(max_tokens=30, headers=key))
        await until(lambda: _readers(api) == 2)
        first.cancel()  # one leaves, the text goes on for the other
        await until(lambda: _readers(api) == 1)
        engine.gate.set()
        answer = (await second).json()
        assert answer["usage"]["completion_tokens"] <= 30
        again = (await api.chat(max_tokens=30, headers=key)).json()
        assert again == answer
        assert api.daemons[0].worker.machine.counters.opened == 1
        other = (await api.chat(max_tokens=30, headers={"idempotency-key": "k2"})).json()
        assert other["id"] != answer["id"]


def _readers(api: Served) -> int:
    return sum(text.readers for text in api.api.texts._active)


def _text(stream: str) -> str:
    return "".join(one["choices"][0]["delta"].get("content", "") for one in events(stream))


async def test_a_key_used_for_another_body(mosquitto: PrivateBroker) -> None:
    key = {"idempotency-key": "k"}
    async with served(mosquitto) as api:
        assert (await api.chat("one", max_tokens=3, headers=key)).status_code == 200
        for other in ({"prompt": "two"}, {"prompt": "one", "stream": True}, {"prompt": "one", "seed": 1}):
            answer = await api.chat(max_tokens=3, headers=key, **other)
            said(answer, 422, "idempotency_key_reused")
        said(await api.post("/v1/completions", {"prompt": "one"}, **key), 422, "idempotency_key_reused")
        for bad in ("", "x" * 256):
            assert (await api.chat(headers={"idempotency-key": bad})).status_code == 400
        assert api.daemons[0].worker.machine.counters.opened == 1


async def test_a_text_that_failed_frees_its_key(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    key = {"idempotency-key": "k"}
    async with served(mosquitto, engine=engine) as api:
        said(await api.chat(max_tokens=20, headers=key, wait=0.5), 503, "no_worker")
        await until(lambda: api.api.texts.outbox.counts == {})  # whoever asked was told
        engine.gate.set()
        first = (await api.chat(max_tokens=20, headers=key)).json()
        assert first["usage"]["completion_tokens"] <= 20
    async with served(mosquitto, engine=FakeEngine(), version=api.version) as api:
        # Without a seed of the client's, key and body make one, so a node that knows nothing of it writes the same.
        answer = (await api.chat(max_tokens=20, headers=key)).json()
        assert answer["choices"] == first["choices"]


async def test_a_text_with_a_key_goes_on_without_its_reader(mosquitto: PrivateBroker) -> None:
    """It is found while it is written and when it is over, and dropping it cancels up to the worker."""
    key = {"idempotency-key": "left"}
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        asking = asyncio.create_task(api.chat(max_tokens=20, headers=key))
        await until(lambda: api.node.sessions == 1)
        asking.cancel()
        await until(lambda: _readers(api) == 0)
        assert api.node.sessions == 1
        engine.gate.set()
        await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
        await until(lambda: len(api.api.texts) == api.node.sessions == 0)
        (entry,) = await api.api.texts.outbox.run(api.api.texts.outbox.journal.entries)
        assert not entry.read
        answer = await api.chat(max_tokens=20, headers=key)
        assert answer.headers["x-flexspec-outbox"] == entry.id
        assert answer.json()["id"] == f"chatcmpl-{entry.id}"
        assert api.daemons[0].worker.machine.counters.opened == 1
        await until(lambda: len(api.api.texts) == 0)
        (entry,) = await api.api.texts.outbox.run(api.api.texts.outbox.journal.entries)
        assert entry.read
        left, _ = await begin(api, headers={"idempotency-key": "other"})
        await left.aclose()
        await until(lambda: _readers(api) == 0)
        assert api.node.sessions == 1
        for _ in range(2):
            await api.api.texts.drop(left.headers["x-flexspec-outbox"])
        await until(lambda: api.node.sessions == 0 and api.daemons[0].kept == 0)
        await until(lambda: api.api.texts.outbox.counts == {"done": 1})


async def test_the_outbox_is_bounded(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, outbox_texts=3) as api:
        for n in range(8):
            assert (await api.chat(max_tokens=2, headers={"idempotency-key": f"k{n}"})).status_code == 200
        await until(lambda: api.api.texts.outbox.counts == {"done": 3})
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, outbox_texts=2) as api:
        asking = [
            asyncio.create_task(api.chat(max_tokens=2, headers={"idempotency-key": f"k{n}"}))
            for n in range(2)
        ]
        await until(lambda: api.node.sessions == 2)
        said(await api.chat(max_tokens=2, headers={"idempotency-key": "full"}), 503, "outbox_full")
        assert api.api.texts.outbox.counts == {"queued": 2}
        engine.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200]
    async with served(mosquitto, outbox_for=0.0001) as api:
        ids = {
            (await api.chat(max_tokens=9, headers={"idempotency-key": "k"})).json()["id"] for _ in range(3)
        }
        assert len(ids) == 3


async def test_too_many_readers_of_one_text(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, max_readers=2) as api:
        key = {"idempotency-key": "k"}
        reading = [asyncio.create_task(api.chat(max_tokens=5, headers=key)) for _ in range(2)]
        await until(lambda: _readers(api) == 2)
        assert (await api.chat(max_tokens=5, headers=key)).status_code == 429
        engine.gate.set()
        first, second = await asyncio.gather(*reading)
        assert first.json() == second.json()


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
    text.confirmed([("a", "device")])
    await until(lambda: sum(part.startswith(b":") for part in sent) >= 2)
    text.confirmed([("b", "device")])
    finish(text, End("length"))
    await asyncio.wait_for(replying, 60)
    assert _text(b"".join(sent).decode()) == "ab"


async def test_the_end_of_the_server(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        answer, parts = await begin(api)
        api.run.cancel()
        done, _ = await asyncio.wait([api.run], timeout=10)
        assert done
        assert api.run.cancelled()
        last = b"".join([part async for part in parts]).decode().strip().split("\n\n")[-1]
        assert last.startswith('data: {"error":')
        assert '"code":"stopping"' in last
        await until(lambda: api.node.sessions == 0 and api.daemons[0].kept == 0)
        await answer.aclose()
        with pytest.raises(httpx2.ConnectError):
            await api.chat()
