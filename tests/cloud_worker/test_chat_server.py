"""Texts of a server that tells no token ids, from the device's HTTP through Mosquitto to the server and back."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from broker.launcher import PrivateBroker
from cloud_worker.engine.load import load_engine
from cloud_worker.engine.servers.chat import _Model, _versions
from cloud_worker.engine.servers.client import _seconds
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from flexspec_mq import waiting
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.byte_text.ids import BYTE_CONTEXT, ByteEnd, encode_text
from flexspec_mq.models.load import byte_text
from schemas.messages import NOISE_VERSION, Identity, Sampling
from schemas.served import ServedMessage, ServedRequest
from tests.cloud_worker import works
from tests.edge_node.api.served import Served, content, said, served
from tests.engine_server import EngineServer
from tests.packaging.test_imports import BLOCK

LIMIT = 40
QUESTION = "hello"


@pytest.fixture
def server(tiny: Path) -> Iterator[EngineServer]:
    with EngineServer(tiny, name="org/tiny:1b") as server:
        yield server


def connected(server: EngineServer, version: str, **more: Any) -> ServerEngine:
    settings = WorkerSettings(worker="w1", version=version, engine="openai", engine_url=server.url, **more)
    engine = load_engine(settings, lambda _: None)
    assert isinstance(engine, ServerEngine)
    return engine


@asynccontextmanager
async def site(mosquitto: PrivateBroker, server: EngineServer, version: str) -> AsyncIterator[Served]:
    """A device, and a worker beside the server."""
    engine: Any = await asyncio.to_thread(connected, server, version)
    async with served(mosquitto, engine=engine, version=version) as api:
        yield api


def chat(**more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": LIMIT,
        "temperature": 0,
        **more,
    }


async def test_the_text_is_the_servers_own(mosquitto: PrivateBroker, server: EngineServer) -> None:
    async with site(mosquitto, server, "own") as api:
        for more in ({"temperature": 0}, {"temperature": 0.8, "seed": 42}):
            alone = await asyncio.to_thread(server.chat, QUESTION, max_tokens=LIMIT, **more)
            answer = await api.post("/v1/chat/completions", chat(**more))
            assert content(answer) == alone
            usage = answer.json()["usage"]
            assert usage["completion_tokens"] == LIMIT
            assert usage["flexspec"]["exactness"] == "the server's"
            assert usage["flexspec"]["proposed"] == 0
            assert answer.json()["choices"][0]["finish_reason"] == "length"
        listed = (await api.get("/v1/models")).json()["data"]
        assert {each["id"] for each in listed} == {"own", "tiny-1b"}
        shown = (await api.post("/api/show", {"model": "tiny-1b"})).json()["model_info"]
        assert shown == {"general.architecture": "flexspec", "general.basename": "tiny-1b"}
        assert not any("max_model_len" in each for each in listed)  # a server's tokens are not ours to count
        answer = await api.post("/v1/chat/completions", chat(model="tiny-1b"))
        assert answer.json()["model"] == "tiny-1b"


async def test_a_text_goes_on_when_its_server_was_killed(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    """It is continued from what is there, and says so."""
    server.faults.slow = 0.02
    async with site(mosquitto, server, "killed") as api:
        writing = asyncio.create_task(api.post("/v1/chat/completions", chat(wait=60)))
        await _some(api)
        await asyncio.to_thread(server.kill)
        server.start()
        answer = await writing
        text, usage = content(answer), answer.json()["usage"]
        assert usage["flexspec"]["resumed"] == "continued"
        last = server.asked[-1]
        begun = last["messages"][-1]
        assert begun["role"] == "assistant"
        assert text.startswith(begun["content"])
        assert begun["content"]
        server.faults.slow = 0.0
        rest = {
            name: last[name] for name in ("add_generation_prompt", "continue_final_message", "max_tokens")
        }
        again = await asyncio.to_thread(_rest, server, last, rest)
        assert text == begun["content"] + again


def _rest(server: EngineServer, last: dict[str, Any], rest: dict[str, Any]) -> str:
    return server.chat(QUESTION, **{**rest, "temperature": 0, "messages": last["messages"]})


async def _some(api: Served) -> None:
    """Wait until some of a text is there."""
    for _ in range(2000):
        if any(each.machine.committed_length > 8 for each in api.node._sessions.values()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no text has begun")


async def test_a_server_that_is_full_is_left_alone_for_as_long_as_it_says(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    """The text that it refused waits, new ones are told to come back, and those that are written go on."""
    async with site(mosquitto, server, "full") as api:
        server.faults.slow = 0.02
        alone = await asyncio.to_thread(server.chat, QUESTION, max_tokens=LIMIT, temperature=0)
        writing = asyncio.create_task(api.post("/v1/chat/completions", chat()))
        await _some(api)
        server.faults.busy = [format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True), "1"]
        refused = asyncio.create_task(api.post("/v1/chat/completions", chat(seed=2)))
        await _until(lambda: api.daemons[0].worker.machine.full.until > 0)
        assert "429" in api.daemons[0].worker.machine.full.why
        status = api.daemons[0].worker._status("online")
        assert status.load == status.capacity
        later = asyncio.create_task(api.post("/v1/chat/completions", chat(seed=3)))
        answers = await asyncio.gather(writing, refused, later)
        assert [content(answer) for answer in answers] == 3 * [alone]
        assert answers[0].json()["usage"]["flexspec"]["resumed"] == ""
        assert api.daemons[0].worker.machine.counters.busy > 0, "the later one came while it was full"
        assert len(server.asked) == 6, "by itself, three texts, and the two that it refused"


async def test_a_device_has_so_many_tokens_a_day(
    mosquitto: PrivateBroker, server: EngineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that takes the last one ends with that reason, and no restart of the worker forgets the count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for restart in range(2):
        engine: Any = await asyncio.to_thread(connected, server, "paid", tokens_per_day=70)
        async with served(mosquitto, engine=engine, version="paid", edge={"edge": "device"}) as api:
            if not restart:
                first = (await api.post("/v1/chat/completions", chat())).json()["usage"]
                left = 70 - first["total_tokens"]
                assert 0 < left < LIMIT
                pieces = await _shown(api, chat(stream=True))
                assert pieces[-1]["error"]["code"] == "server_refused"
                assert "70 tokens of paid that device device has on" in pieces[-1]["error"]["message"]
                assert 0 < len(pieces) - 1 <= left, "what was paid for is shown"
            asked = len(server.asked)
            refused = await api.post("/v1/chat/completions", chat())
            assert "00:00 UTC" in said(refused, 502, "server_refused")["message"]
            assert len(server.asked) == asked, "the budget is asked before the server"


async def _shown(api: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await api.post("/v1/chat/completions", body)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", None), ("soon", None), ("7", 7.0), ("0", waiting.BUSY[0]), ("9" * 4000, waiting.PATIENCE),
        ("-3", None), ("Thu, 01 Jan 1970 00:00:00 GMT", waiting.BUSY[0]), ("Thu, 32 Jan 1970", None),
    ],
)  # fmt: skip
def test_how_long_a_server_wants_to_be_left_alone(said: str, seconds: float | None) -> None:
    assert _seconds(said) == seconds


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not holds():  # noqa: ASYNC110  the worker has no event for it
            await asyncio.sleep(0.01)


async def test_a_server_that_cannot_continue_writes_again_and_is_compared(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    server.owner, server.faults.slow = "somebody", 0.02
    async with site(mosquitto, server, "again") as api:
        alone = await asyncio.to_thread(server.chat, QUESTION, max_tokens=LIMIT, temperature=0)
        writing = asyncio.create_task(api.post("/v1/chat/completions", chat(wait=60)))
        await _some(api)
        await asyncio.to_thread(server.kill)
        server.start()
        answer = await writing
        assert content(answer) == alone
        assert answer.json()["usage"]["flexspec"]["resumed"] == "rewritten"


async def test_another_text_is_never_put_behind_the_beginning_of_one(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.owner, server.faults.slow = "somebody", 0.02
    async with site(mosquitto, server, "forked") as api:
        writing = asyncio.create_task(api.post("/v1/chat/completions", chat(wait=60)))
        await _some(api)
        await asyncio.to_thread(server.kill)
        asked = server._check

        def warmer(body: dict[str, Any], prompt: list[int]) -> Any:
            return asked({**body, "temperature": 1.5}, [*prompt[:-3], 99, 98, 97])

        monkeypatch.setattr(server, "_check", warmer)
        server.start()
        error = said(await writing, 502, "server_refused")
        assert "wrote another one" in error["message"]


async def test_a_server_with_another_model_after_a_restart_is_not_asked(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    async with site(mosquitto, server, "other") as api:
        assert content(await api.post("/v1/chat/completions", chat()))
        await asyncio.to_thread(server.kill)
        server.name = "another"
        server.start()
        answer = await api.post("/v1/chat/completions", chat(wait=3))
        assert answer.status_code in (502, 503, 504), answer.text


_THIN = f"{BLOCK}\nimport sys\nfrom edge_node.__main__ import main\nsys.exit(main(sys.argv[1:]))"


async def test_a_device_needs_neither_a_tokenizer_nor_arrays(
    mosquitto: PrivateBroker, server: EngineServer, tmp_path: Path
) -> None:
    async with site(mosquitto, server, "thin"):
        ask = ("ask", QUESTION, "--max-tokens", str(LIMIT), "--version", "thin", "--wait", "60")
        broker = ("--broker", f"127.0.0.1:{mosquitto.port}", "--draft", "none")
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _THIN, *ask, *broker),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        out, err = await done.communicate()
        alone = await asyncio.to_thread(server.chat, QUESTION, max_tokens=LIMIT, temperature=0)
        assert alone.strip() in out.decode(), err.decode()


Lie = Callable[[], Response]


def _stream(*lines: bytes) -> Lie:
    async def body() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    return lambda: StreamingResponse(body(), media_type="text/event-stream")


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (
            lambda: JSONResponse({"error": {"message": "the prompt is too long"}}, 400),
            "the prompt is too long",
        ),
        (lambda: JSONResponse({"error": "the key hush is wrong"}, 401), "the key … is wrong"),
        (lambda: RedirectResponse("http://127.0.0.1:9/"), "redirects are not followed"),
        (_stream(b"data: " + b"[" * 10_000 + b"\n\n"), "answers what it should not"),
        (_stream(b'data: {"choices":[{"delta":{"content":7}}]}\n\n'), "answers what it should not"),
        (_stream(b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'), "answers what it should not"),
        (_stream(b"data: " + b"x" * 2_000_000), "sends a line of more than"),
        (_stream(b'data: {"error":{"message":"out of memory"}}\n\n'), "out of memory"),
        (_stream(b'data: {"choices":[],"usage":{"prompt_tokens":NaN}}\n\n'), "answers what it should not"),
        (_stream(b"data: [DONE]\n\n"), "ended the text by no reason"),
        (
            lambda: Response(gzip.compress(10**7 * b"x"), headers={"content-encoding": "gzip"}),
            "answers in gzip",
        ),
    ],
)
async def test_whatever_a_server_sends_one_text_fails_in_words_and_the_worker_lives(
    mosquitto: PrivateBroker,
    server: EngineServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lie: Lie,
    words: str,
) -> None:
    (key := tmp_path / "key").write_text("hush\n")
    engine: Any = await asyncio.to_thread(connected, server, "lies", engine_key_file=key)
    lies = threading.Event()
    told = EngineServer._chat
    monkeypatch.setattr(
        EngineServer, "_chat", lambda self, body: lie() if lies.is_set() else told(self, body)
    )
    await asyncio.to_thread(server.kill)
    server.start()  # with routes that lie
    async with served(mosquitto, engine=engine, version="lies") as api:
        lies.set()
        error = said(await api.post("/v1/chat/completions", chat()), 502, "server_refused")
        assert words in error["message"]
        assert "hush" not in error["message"]
        lies.clear()
        assert content(await api.post("/v1/chat/completions", chat()))


def test_no_more_is_read_than_a_text_may_have(server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = b'data: {"choices":[{"delta":{"content":"' + 1000 * b"x" + b'"}}]}\n\n'
    monkeypatch.setattr(EngineServer, "_chat", lambda _self, _body: _stream(*1000 * [piece])())
    server.kill()
    server.start()
    engine = connected(server, "base")
    prompt = msgspec.json.encode(ServedRequest(messages=(ServedMessage("user", QUESTION),)))
    identity = Identity(NOISE_VERSION, engine.facts.fingerprint, Sampling(), byte_text().eos, False, 999)
    text: tuple[int, ...] = ()
    while True:
        engine.add(works.work(identity, prompt, text, room=30_000))
        while not (result := engine.step()).decided and not result.failed:
            continue
        if result.failed:
            break
        text += result.decided[0][1]
    assert "writes more than a text may have" in str(result.failed[0][1])
    assert BYTE_CONTEXT < len(text) <= BYTE_CONTEXT + 1000
    engine.close()


async def test_forms_that_a_server_does_not_know_are_refused(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    async with site(mosquitto, server, "forms") as api:
        error = said(await api.post("/v1/chat/completions", chat(guided_regex="a+")), 400, "invalid_value")
        assert "takes JSON schemas" in error["message"]
        error = said(await api.post("/v1/completions", {"prompt": [1, 2]}), 400, "invalid_value")
        assert "takes no token ids" in error["message"]
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        shape = {"type": "json_schema", "json_schema": {"name": "b", "schema": schema}}
        await api.post("/v1/chat/completions", chat(response_format=shape))
        asked = server.asked[-1]["response_format"]["json_schema"]
        assert asked["schema"] == {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine_model": "other"}, "serves org/tiny:1b"),
        ({"engine_url": "http://192.0.2.1:1", "engine_key_file": "key"}, "would travel unencrypted"),
        ({"draft": "lookup"}, "its own affair"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    server: EngineServer, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    (tmp_path / "key").write_text("hush\n")
    if "engine_key_file" in more:
        more = {**more, "engine_key_file": tmp_path / "key"}
    settings = {"engine_url": server.url, **more}
    with pytest.raises(FlexSpecError, match=words):
        load_engine(WorkerSettings(worker="w1", engine="openai", **settings), lambda _: None)


def _told(*deltas: dict[str, Any], ended: str) -> Lie:
    """A stream as llama.cpp and vLLM document it."""
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in (*events, last, usage)]
    return _stream(*lines, b"data: [DONE]\n\n")


CALL = [{"index": 0, "id": "x", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}]


@asynccontextmanager
async def scripted(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch, version: str, lie: Lie
) -> AsyncIterator[Served]:
    monkeypatch.setattr(EngineServer, "_chat", lambda _self, _body: lie())
    await asyncio.to_thread(server.kill)
    server.start()
    async with site(mosquitto, server, version) as api:
        yield api


async def test_reasoning_and_calls_reach_each_api(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = _told({"reasoning_content": "hm"}, {"content": "well"}, {"tool_calls": CALL}, ended="tool_calls")
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    async with scripted(mosquitto, server, monkeypatch, "calls", lie) as api:
        (choice,) = (await api.post("/v1/chat/completions", chat(tools=tools))).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        message = choice["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm", "well")
        assert message["tool_calls"][0]["function"] == CALL[0]["function"]
        asked = {"model": "calls", "messages": chat()["messages"], "tools": tools, "stream": False}
        message = (await api.post("/api/chat", asked)).json()["message"]
        assert (message["thinking"], message["content"]) == ("hm", "well")
        assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
        asked = {"input": QUESTION, "tools": [{"type": "function", "name": "now", "parameters": None}]}
        for stream in (False, True):
            answer = await api.post("/v1/responses", {**asked, "stream": stream})
            assert answer.status_code == 200, answer.text
        told = answer.text.split("event: response.completed\ndata: ")[1].splitlines()[0]
        output = json.loads(told)["response"]["output"]
        assert [item["type"] for item in output] == ["message", "function_call"]
        assert output[1]["arguments"] == '{"a": 1}'


async def test_a_refusal_is_shown(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = _told({"refusal": "I will not."}, ended="content_filter")
    async with scripted(mosquitto, server, monkeypatch, "refuses", lie) as api:
        (choice,) = (await api.post("/v1/chat/completions", chat())).json()["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", None)
        assert choice["message"]["refusal"] == "I will not."
        asked = {"model": "refuses", "messages": chat()["messages"], "stream": False}
        assert (await api.post("/api/chat", asked)).json()["message"]["content"] == "I will not."
        answer = (await api.post("/v1/responses", {"input": QUESTION})).json()
        assert answer["output"][0]["content"][0]["text"] == "I will not."


async def test_an_end_that_nobody_knows_is_no_end_of_a_text(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = _told({"content": "half"}, ended="abort")
    async with scripted(mosquitto, server, monkeypatch, "aborts", lie) as api:
        error = said(await api.post("/v1/chat/completions", chat()), 502, "server_refused")
        assert "ended the text by 'abort'" in error["message"]


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (("org/a:1b", "b.gguf"), {"own": "org/a:1b", "a-1b": "org/a:1b", "b": "b.gguf"}),
        (("x/a", "y/a"), {"own": "x/a", "a": "x/a", "y-a": "y/a"}),
        (("x/a", "own"), {"own": "own", "a": "x/a"}),
    ],
)
def test_each_model_is_a_version(models: tuple[str, ...], found: dict[str, str]) -> None:
    assert _versions([_Model(id=model) for model in models], "own") == found


def test_a_text_that_broke_off_at_its_limit_has_ended(server: EngineServer) -> None:
    """Whoever counts the limit's tokens asks for none beyond."""
    engine = connected(server, "base")
    begun = server.chat(QUESTION, max_tokens=9, temperature=0)
    asked = len(server.asked)
    prompt = msgspec.json.encode(ServedRequest(messages=(ServedMessage("user", QUESTION),), max_tokens=9))
    identity = Identity(NOISE_VERSION, engine.facts.fingerprint, Sampling(), byte_text().eos, False, 999)
    engine.add(works.work(identity, prompt, encode_text(begun), room=300))
    while not (result := engine.step()).decided:
        assert not result.failed
    assert result.decided[0][1][-1] == ByteEnd.LENGTH
    assert len(server.asked) == asked
    engine.close()


def test_another_text_ends_a_session_though_it_comes_in_one_piece(server: EngineServer) -> None:
    """It is asked for once."""
    server.owner = "somebody"
    engine = connected(server, "base")
    prompt = msgspec.json.encode(ServedRequest(messages=(ServedMessage("user", QUESTION),), max_tokens=9))
    identity = Identity(NOISE_VERSION, engine.facts.fingerprint, Sampling(), byte_text().eos, False, 999)
    engine.add(works.work(identity, prompt, (1,), room=300))
    while not (result := engine.step()).failed:
        assert not result.decided
    ((_, error),) = result.failed
    assert "wrote another one" in str(error)
    assert len(server.asked) == 1
    engine.close()


async def test_models_that_the_deployment_does_not_know_are_no_versions(
    server: EngineServer, tmp_path: Path
) -> None:
    groups = tmp_path / "groups"
    groups.write_text(f"own {'5' * 32}\n")
    settings = WorkerSettings(worker="w1", version="own", share_groups=groups)
    engine = await asyncio.to_thread(connected, server, "own")
    assert engine.facts.versions == ("own", "tiny-1b")
    assert [*CloudWorker(settings, engine).machine.versions] == ["own"]
    engine.close()
