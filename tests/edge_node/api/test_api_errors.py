"""Errors over HTTP: each has its status, OpenAI's shape, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.server import serve
from edge_node.api.settings import ApiSettings
from flexspec_mq.errors import RemoteProtocolError, UsageError
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import MAX_PROMPT_TOKENS
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import served

LONG: dict[str, Any] = {"max_tokens": 40_000, "ignore_eos": True}


def said(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, which has all of OpenAI's fields."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


async def test_requests_that_cannot_be_done(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_body=4000, max_context=100) as api:
        assert said(await api.chat(n=2), 400, "unsupported_parameter")["param"] == "n"
        assert said(await api.chat(what=1), 400, "unknown_parameter")["param"] == "what"
        assert said(await api.chat(model="gone"), 404, "model_not_found")["param"] == "model"
        assert said(await api.chat("x" * 150), 400, "context_length_exceeded")["param"] == "messages"
        assert said(await api.chat("x" * 5000), 413, "body_too_long")
        assert said(await api.chat("  "), 400, "invalid_value")["param"] == "messages"
        prompts: list[Any] = ["", [50], [10**9], [1] * 100]
        for prompt in prompts:
            answer = await api.post("/v1/completions", {"prompt": prompt})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "prompt"
        said(await api.http.get(f"{api.url}/v1/nothing"), 404, "not_found")
        said(await api.http.get(f"{api.url}/v1/chat/completions"), 405, "method_not_allowed")
        said(await api.http.get(f"{api.url}/v1/models/gone"), 404, "model_not_found")
        form = await api.http.post(f"{api.url}/v1/completions", data={"prompt": "x"})
        said(form, 415, "unsupported_media_type")
        broken = await api.http.post(
            f"{api.url}/v1/completions", content=b"{", headers={"content-type": "application/json"}
        )
        said(broken, 400, "invalid_json")
        with pytest.raises(openai.BadRequestError) as raised:
            await api.client.chat.completions.create(
                model=api.version, messages=[{"role": "user", "content": "x"}], logit_bias={"5": 1}
            )
        assert raised.value.param == "logit_bias"
        with pytest.raises(openai.NotFoundError):
            await api.client.models.retrieve("gone")
        assert api.daemons[0].worker.machine.counters.opened == 0
        assert await api.metric('flexspec_edge_requests_total{endpoint="other",status="404"}') == 1


async def test_a_body_without_a_stated_length_is_bounded(mosquitto: PrivateBroker) -> None:
    async def endless() -> Any:
        yield b'{"prompt": "'
        for _ in range(1000):
            yield b"x" * 1000

    async with served(mosquitto, max_body=4000) as api:
        answer = await api.http.post(
            f"{api.url}/v1/completions", content=endless(), headers={"content-type": "application/json"}
        )
        said(answer, 413, "body_too_long")


async def test_the_key(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_key="hush") as api:
        for headers in (
            {},
            {"authorization": "Bearer hus"},
            {"authorization": "hush"},
            {"authorization": "Basic hush"},
        ):
            for path in ("/v1/models", "/metrics", "/v1/nothing"):
                said(await api.http.get(f"{api.url}{path}", headers=headers), 401, "invalid_api_key")
            said(await api.chat(headers=headers), 401, "invalid_api_key")
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await api.http.get(f"{api.url}{path}")).status_code == 200
        assert (await api.http.get(f"{api.url}/metrics", headers=api.key)).status_code == 200
        answer = await api.client.chat.completions.create(
            model=api.version, messages=[{"role": "user", "content": "x"}], max_tokens=2
        )
        assert answer.usage is not None
        with pytest.raises(openai.AuthenticationError):
            await api.client.with_options(api_key="wrong").models.list()


async def test_another_host_name_is_refused_unless_it_is_named(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_hosts=("host.docker.internal",)) as api:
        for host in (
            "evil.example", "evil.example:80", "192.0.2.1", "127.0.0.1.evil.example", "docker.internal",
            "host.docker.internal.evil.example",
        ):  # fmt: skip
            said(await api.http.get(f"{api.url}/v1/models", headers={"host": host}), 403, "wrong_host")
        for host in ("localhost", "localhost:80", "127.0.0.1", "[::1]:80", "HOST.docker.internal:8080"):
            assert (await api.http.get(f"{api.url}/v1/models", headers={"host": host})).status_code == 200


async def test_a_worker_that_refuses(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_context=300_000, worker={}) as api:
        prompt = [1] * (MAX_PROMPT_TOKENS - 10)
        answer = await api.post("/v1/completions", {"prompt": prompt, "max_tokens": 150_000})
        assert "refused the session" in said(answer, 503, "no_worker")["message"]


async def test_the_deadline(mosquitto: PrivateBroker) -> None:
    engine = FakeEngine()
    async with served(mosquitto, engine=engine, api_timeout=0.3) as api:
        engine.gate.clear()
        with pytest.raises(openai.InternalServerError) as raised:
            await api.client.chat.completions.create(
                model=api.version, messages=[{"role": "user", "content": "x"}]
            )
        assert raised.value.status_code == 504
        engine.gate.set()
        await until(lambda: api.daemons[0].kept == 0)
        assert await api.metric('flexspec_edge_texts_total{outcome="deadline"}') == 1


async def test_a_failure_in_mid_stream_is_an_error_event(mosquitto: PrivateBroker) -> None:
    steps: Counter[Any] = Counter()

    def stop_in_mid_text(items: Sequence[WorkItem]) -> None:
        steps.update(item.key for item in items)
        if sum(count >= 3 for count in steps.values()) == 2:
            engine.gate.clear()

    engine = FakeEngine(stop_in_mid_text)
    async with served(mosquitto, engine=engine, api_timeout=3.0) as api:
        raw = asyncio.create_task(api.chat("raw", stream=True, **LONG))
        stream = await api.client.chat.completions.create(
            model=api.version, messages=[{"role": "user", "content": "x"}], stream=True, max_tokens=40_000,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        chunks: list[Any] = []
        with pytest.raises(openai.APIError, match="was not complete after"):
            await _collect(stream, chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert not any(chunk.choices[0].finish_reason for chunk in chunks)
        events = (await raw).text.strip().split("\n\n")
        assert '"code":"deadline"' in events[-1]
        assert "[DONE]" not in events[-1]


async def _collect(stream: Any, chunks: list[Any]) -> None:
    async for chunk in stream:
        chunks += [chunk]


async def test_too_many_at_a_time(mosquitto: PrivateBroker) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with served(mosquitto, engine=engine, api_texts=2) as api:
        running = [asyncio.create_task(api.chat(f"q{n}", max_tokens=5)) for n in range(2)]
        await until(lambda: len(api.api.texts) == 2)
        answer = await api.chat(max_tokens=5)
        assert said(answer, 429, "too_many_texts")["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        engine.gate.set()
        assert [one.status_code for one in await asyncio.gather(*running)] == [200, 200]
        assert (await api.chat(max_tokens=5)).status_code == 200


async def test_a_broker_that_is_away(own_mosquitto: PrivateBroker) -> None:
    async with served(own_mosquitto, link_patience=0.2) as api:
        assert (await api.chat(max_tokens=5)).status_code == 200
        own_mosquitto.kill()
        await until(lambda: not api.node.link.is_up)
        answer = await api.http.get(f"{api.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["reason"] == "the edge node has no link to its broker"
        assert (await api.http.get(f"{api.url}/healthz")).status_code == 200
        assert await api.metric("flexspec_edge_link_up") == 0
        said(await api.chat(), 503, "broker_unreachable")
        await asyncio.to_thread(own_mosquitto.start)
        await until(lambda: api.node.link.is_up)
        assert (await api.chat(max_tokens=5)).status_code == 200


async def test_an_outage_that_lasts_is_told_at_once(own_mosquitto: PrivateBroker) -> None:
    async with served(own_mosquitto) as api:
        own_mosquitto.kill()
        await until(lambda: not api.node.link.is_up)
        began = time.monotonic()
        said(await api.chat(), 503, "broker_unreachable")
        assert time.monotonic() - began < 5.0, "one that began just now is waited for, for 3 s"
        began = time.monotonic()
        error = said(await api.chat(), 503, "broker_unreachable")
        assert time.monotonic() - began < 2.0
        assert "no link to its broker for" in error["message"]
        await asyncio.to_thread(own_mosquitto.start)
        assert (await api.chat(max_tokens=5)).status_code == 200, "the text itself brings the link back"


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 0.5), ({"link_patience": 0.1, "api_wait": 30.0}, 2.0)],
    ids=["briefly", "asked to"],
)
async def test_a_text_waits_for_the_broker(
    own_mosquitto: PrivateBroker, settings: dict[str, Any], seconds: float
) -> None:
    async with served(own_mosquitto, **settings) as api:
        own_mosquitto.kill()
        await until(lambda: not api.node.link.is_up)
        asking = asyncio.create_task(api.chat(max_tokens=5))
        await asyncio.sleep(seconds)
        assert not asking.done()
        await asyncio.to_thread(own_mosquitto.start)
        assert (await asking).status_code == 200


async def test_an_address_of_another_machine(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        settings = ApiSettings(api_host="192.0.2.1", api_insecure_anywhere=True)
        api.app.state.api = replace(api.api, settings=settings)
        with pytest.raises(UsageError, match="cannot listen"):
            await asyncio.wait_for(serve(api.app, print), 10)


async def test_a_bug_in_the_node_and_a_worker_that_breaks_the_protocol(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither can be asked for over HTTP, so what the API calls fails for it."""
    async with served(mosquitto) as api:
        for error, status, code in (
            (RuntimeError("a bug"), 500, "internal"),
            (RemoteProtocolError("a verdict for nobody"), 502, "worker_protocol"),
        ):

            def fails(_request: object, *, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(api.node, "generate", fails)
            for stream in (False, True):
                said(await api.chat(stream=stream), status, code)
            with pytest.raises(openai.InternalServerError) as raised:
                await api.client.completions.create(model=api.version, prompt="x")
            assert raised.value.status_code == status
        monkeypatch.undo()
        assert "a bug" in caplog.text
        assert (await api.chat(max_tokens=2)).status_code == 200
        assert len(api.api.texts) == 0
