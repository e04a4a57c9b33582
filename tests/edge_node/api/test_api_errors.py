"""Errors over HTTP: each has its status, OpenAI's shape, and leaves nothing behind."""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.server import serve
from edge_node.api.settings import ApiSettings
from flexspec_mq import waiting
from flexspec_mq.errors import RemoteProtocolError, UsageError
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import MAX_PROMPT_TOKENS
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import said, served

LONG: dict[str, Any] = {"max_tokens": 40_000, "ignore_eos": True}


async def test_requests_that_cannot_be_done(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_body=4000, max_context=100) as api:
        assert said(await api.chat(bad_words=["x"]), 400, "unsupported_parameter")["param"] == "bad_words"
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
        for path, status, code in (
            ("/v1/nothing", 404, "not_found"),
            ("/v1/chat/completions", 405, "method_not_allowed"),
            ("/v1/models/gone", 404, "model_not_found"),
        ):
            said(await api.get(path), status, code)
        form = await api.http.post(f"{api.url}/v1/completions", data={"prompt": "x"})
        said(form, 415, "unsupported_media_type")
        broken = await api.http.post(
            f"{api.url}/v1/completions", content=b"{", headers={"content-type": "application/json"}
        )
        said(broken, 400, "invalid_json")
        with pytest.raises(openai.BadRequestError) as raised:
            await api.client.chat.completions.create(
                model=api.version, messages=[{"role": "user", "content": "x"}], logprobs=True
            )
        assert raised.value.param == "logprobs"
        with pytest.raises(openai.NotFoundError):
            await api.client.models.retrieve("gone")
        assert api.daemons[0].worker.machine.counters.opened == 0
        assert await api.answers(404, "other") == 1


async def test_endpoints_that_the_node_lacks_are_told_by_name_and_asked_once(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto) as api:
        ask, sound = api.client, ("a.wav", b"RIFF" * 20_000)
        lacking: list[tuple[str, Coroutine[Any, Any, Any]]] = [
            ("audio/transcriptions", ask.audio.transcriptions.create(model="m", file=sound)),
            ("audio/speech", ask.audio.speech.create(model="m", input="a", voice="alloy")),
            ("images/generations", ask.images.generate(model="m", prompt="a")),
            ("moderations", ask.moderations.create(input="a")),
            ("files", ask.files.create(file=sound, purpose="batch")),
            ("batches/b", ask.batches.retrieve("b")),
            ("fine_tuning/jobs", ask.fine_tuning.jobs.create(model="m", training_file="f")),
        ]
        for number, (path, asked) in enumerate(lacking, start=1):
            with pytest.raises(openai.NotFoundError, match=f"/v1/{path} is not done here .") as raised:
                await asked
            assert raised.value.code == "not_implemented"
            assert await api.answers(404, "other") == number
        said(await api.get("/v2/embeddings"), 404, "not_found")
        with pytest.raises(openai.NotFoundError, match="embeddings are not made here") as raised:
            await ask.embeddings.create(model=api.version, input="a")
        assert raised.value.code == "not_implemented"
        local = {"model": api.version, "input": ["a"], "offline": "local_only"}
        said(await api.post("/v1/embeddings", local), 400, "invalid_value")
        assert api.daemons[0].worker.machine.counters.opened == 0


async def test_a_worker_that_refuses(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_context=300_000, worker={}) as api:
        prompt = [1] * (MAX_PROMPT_TOKENS - 10)
        answer = await api.post("/v1/completions", {"prompt": prompt, "max_tokens": 150_000})
        assert "refused the session" in said(answer, 503, "no_worker")["message"]


async def test_a_context_beyond_what_a_session_can_count_is_no_error(mosquitto: PrivateBroker) -> None:
    """A model may have one, and a worker may say so of any."""
    most = 2**22
    async with served(mosquitto, engine=FakeEngine(max_context=most), max_context=most) as api:
        for asked in ({}, {"max_tokens": most}):
            answer = await api.post("/v1/completions", {"prompt": "the", "seed": 1, **asked})
            assert answer.status_code == 200, answer.text


async def test_the_deadline_is_a_status_and_in_mid_stream_an_error_event(mosquitto: PrivateBroker) -> None:
    steps: Counter[Any] = Counter()

    def stop_in_mid_text(items: Sequence[WorkItem]) -> None:
        steps.update(item.key for item in items)
        if sum(count >= 3 for count in steps.values()) == 2:
            engine.gate.clear()

    engine = FakeEngine(stop_in_mid_text)
    async with served(mosquitto, engine=engine, api_timeout=3.0) as api:
        raw = asyncio.create_task(api.chat("raw", stream=True, **LONG))
        asked: dict[str, Any] = {"model": api.version, "messages": [{"role": "user", "content": "x"}]}
        stream = await api.client.chat.completions.create(
            **asked, stream=True, max_tokens=40_000, extra_body={"ignore_eos": True}
        )
        chunks: list[Any] = []
        with pytest.raises(openai.APIError, match="was not complete after"):
            await _collect(stream, chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert not any(chunk.choices[0].finish_reason for chunk in chunks)
        events = (await raw).text.strip().split("\n\n")
        assert '"code":"deadline"' in events[-1]
        assert "[DONE]" not in events[-1]
        with pytest.raises(openai.InternalServerError) as raised:
            await api.client.chat.completions.create(**asked)
        assert raised.value.status_code == 504
        engine.gate.set()
        await until(lambda: api.daemons[0].kept == 0)
        assert await api.ended("deadline") == 3


async def _collect(stream: Any, chunks: list[Any]) -> None:
    async for chunk in stream:
        chunks += [chunk]


async def test_too_many_at_a_time(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_texts=2) as api:
        answer = await api.chat(n=3, max_tokens=3)
        assert said(answer, 429, "too_many_texts")["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await api.chat(n=2, max_tokens=3)).status_code == 200


async def test_an_outage_that_lasts_is_told_when_a_user_has_waited(
    own_mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream, too, has a status for that, after which a client asks again by itself."""
    monkeypatch.setattr(waiting, "UNLINKED", 3.0)
    async with served(own_mosquitto) as api:
        own_mosquitto.kill()
        await until(lambda: not api.node.link.is_up)
        began = time.monotonic()
        for answer in await asyncio.gather(api.chat(), api.chat(stream=True)):
            error = said(answer, 503, "broker_unreachable")
            assert "no link to its broker for" in error["message"]
            assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() - began >= waiting.UNLINKED
        answer = await api.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (
            503,
            "the edge node has no link to its broker",
        )
        assert (await api.get("/healthz")).status_code == 200
        assert await api.metric("flexspec_edge:link_up") == 0
        await asyncio.to_thread(own_mosquitto.start)
        assert (await api.chat(max_tokens=5)).status_code == 200, "the text itself brings the link back"


async def test_an_address_of_another_machine(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        settings = ApiSettings(api_host="192.0.2.1", api_insecure_anywhere=True)
        api.app.state.api = replace(api.api, settings=settings)
        with pytest.raises(UsageError, match="cannot listen"):
            await asyncio.wait_for(serve(api.app, print), 60)


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
