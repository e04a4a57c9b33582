"""Ollama's API, asked by its makers' own client, and what clients send to it."""

import asyncio
import json
import math
from contextlib import suppress
from itertools import pairwise
from typing import Any

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from edge_node.api.errors import ApiError
from edge_node.api.ollama import chat_request, generate_request
from edge_node.api.sending import reply
from edge_node.api.settings import ApiSettings
from edge_node.text.machine import End
from edge_node.text.reading import Part
from edge_node.text.spec import WHOLE_CONTEXT
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.grammar.tools import ReadCall
from flexspec_mq.models.text import Turn
from schemas.messages import PartialSampling
from tests.edge_node.api.served import RESPONSES, Served, alone, finish, never, served, text_of, tokenizer

HELLO = [{"role": "user", "content": "hello"}]


NAMES = [
    "model", "messages", "tools", "format", "options", "stream", "think", "keep_alive", "truncate", "prompt", "raw",
    "system", "role", "content", "tool_calls", "function", "name", "arguments", "parameters", "type", "properties",
    "seed", "temperature", "num_predict", "stop", "top_k", "top_p", "surprise",
]  # fmt: skip


def client(api: Served) -> ollama.AsyncClient:
    return ollama.AsyncClient(api.url, headers=api.key, trust_env=False, timeout=30)


async def lines(stream: Any) -> list[Any]:
    return [line async for line in stream]


async def test_texts_are_the_target_s_own(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, client(api) as ask:
        asked: dict[str, Any] = {"model": f"{api.version}:latest", "options": {"seed": 7, "num_predict": 40}}
        text = alone("hello", 7, 40)
        whole = await ask.chat(messages=HELLO, **asked)
        message = whole.message
        assert (message.role, message.content, message.tool_calls) == ("assistant", text, None)
        assert (whole.model, whole.done) == (asked["model"], True)
        stream = await lines(await ask.chat(messages=HELLO, stream=True, **asked))
        assert "".join(line.message.content for line in stream) == text
        assert [line.done for line in stream] == [False] * (len(stream) - 1) + [True]
        generated = await ask.generate(prompt="hello", **asked)
        stream += (parts := await lines(await ask.generate(prompt="hello", stream=True, **asked)))
        assert (generated.response, "".join(part.response for part in parts)) == (text, text)
        for end in (whole, generated, stream[-1], parts[-1]):
            assert (end.done_reason, end.eval_count) == (whole.done_reason, whole.eval_count)
            assert end.prompt_eval_count == len(tokenizer().encode("user.hello,assistant."))
            assert end.total_duration == end.prompt_eval_duration + end.eval_duration > 0
            assert end.load_duration == 0
        raw = await ask.generate(**{**asked, "model": api.version}, prompt="user.hello,assistant.", raw=True)
        assert raw.response == text


async def test_what_is_told_of_models(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, client(api) as ask:
        name = f"{api.version}:latest"
        for told in (await ask.list(), await ask.ps()):
            assert [(model.model, len(model.digest or "")) for model in told.models] == [(name, 64)]
        loaded = (await ask.ps()).models[0]
        assert (loaded.name, loaded.expires_at.year if loaded.expires_at else 0) == (name, 9999)
        for asked in (name, api.version):
            shown = await ask.show(asked)
            assert shown.capabilities == ["completion"]  # the fake target reads no grammars
            assert shown.modelinfo is not None
            assert shown.modelinfo["flexspec.context_length"] == 50_000
            assert (shown.template or "").startswith("{% for m in messages %}")
            assert (await ask.pull(asked)).status == "success"
            assert [part.status async for part in await ask.pull(asked, stream=True)] == ["success"]
            assert (await ask.generate(asked)).done_reason == "load"
            assert (await ask.chat(asked, keep_alive=0)).done_reason == "unload"
        assert (await api.get("/api/version")).json().keys() == {"version"}
        assert (await api.get("/")).text == "Ollama is running"
        assert (await api.http.head(api.url)).status_code == 200


CALL = {"function": {"name": "f"}}
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("chat", {"model": "none", "messages": HELLO}, 404, "no model 'none'"),
    ("show", {"model": "none"}, 404, "no model 'none'"),
    ("pull", {"name": "none", "stream": False}, 404, "no model 'none'"),
    ("generate", {"model": "none"}, 404, "no model 'none'"),
    ("chat", {"messages": HELLO}, 400, "model is missing"),
    ("show", {}, 400, "model is required"),
    ("chat", {"model": "m", "messages": HELLO, "think": True}, 400, "does not support thinking"),
    ("chat", {"model": "m", "messages": HELLO, "format": "xml" * 999}, 400, "invalid format"),
    ("chat", {"model": "m", "messages": [{"role": "bot"}]}, 400, "messages[0].role"),
    ("chat", {"model": "m", "messages": [{"role": "user", "tool_calls": [CALL]}]}, 400, "only an assistant"),
    ("chat", {"model": "m", "messages": [{"role": "user", "images": ["AA"]}]}, 400, "images[0]"),
    ("chat", {"model": "m", "messages": HELLO, "options": {"mirostat": 2}}, 400, "options.mirostat"),
    ("chat", {"model": "m", "messages": HELLO, "options": {"repeat_penalty": 0}}, 400, "repeat_penalty"),
    ("chat", {"model": "m", "messages": HELLO, "options": {"top_p": 0}}, 400, "options.top_p"),
    ("chat", {"model": "m", "messages": HELLO, "options": {"min_p": 2}}, 400, "options.min_p"),
    ("chat", {"model": "m", "messages": HELLO, "tools": [{"function": {"name": "a b"}}]}, 400, "'a b'"),
    ("generate", {"model": "m", "prompt": "a", "suffix": "b"}, 400, "suffix"),
    ("generate", {"model": "m", "prompt": "a", "context": [1]}, 400, "/api/chat"),
    ("generate", {"model": "m", "prompt": "a", "template": "b"}, 400, "chat template"),
    ("generate", {"model": "m", "prompt": "a", "raw": True, "system": "b"}, 400, "raw mode"),
    ("embed", {"model": "m"}, 404, "no model 'm'"),
    ("create", {"model": "m"}, 501, "flexspec-cloud"),
    ("blobs/sha256:a", {}, 501, "flexspec-cloud"),
    ("nothing", {}, 404, "no such path"),
]


async def test_fields_that_nobody_knows_are_ignored_as_by_ollama(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        options = {"num_predict": 4, "seed": 1}
        body = {"model": api.version, "messages": HELLO, "stream": False, "options": options}
        known = (await api.http.post(f"{api.url}/api/chat", json=body)).json()
        surprise = {"max_output_tokens": 9, "options": {**options, "surprise": {"a": 1}}}
        asked = (await api.http.post(f"{api.url}/api/chat", json=body | surprise)).json()
        assert asked["message"] == known["message"]
        assert asked["eval_count"] == 4


async def test_errors(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_key="secret") as api:
        for path, body, status, words in WRONG:
            answer = await api.http.post(f"{api.url}/api/{path}", json=body, headers=api.key)
            assert (answer.status_code, [*answer.json()]) == (status, ["error"]), answer.text
            assert words in (error := answer.json()["error"])
            assert len(error) < 300
        for path in ("embed", "embeddings"):
            asked = {"model": api.version, "input": "a", "prompt": "a"}
            answer = await api.http.post(f"{api.url}/api/{path}", json=asked, headers=api.key)
            assert (answer.status_code, "embeddings are not made" in answer.json()["error"]) == (501, True)
        async with ollama.AsyncClient(api.url, trust_env=False) as stranger:
            with pytest.raises(ollama.ResponseError, match="API key") as raised:
                await stranger.list()
        assert raised.value.status_code == 401
        assert (await api.get("/")).status_code == 200
        assert (await api.http.request("DELETE", f"{api.url}/api/chat", headers=api.key)).status_code == 405
        # As `curl -d` sends it, with its own type.
        data = json.dumps({"model": api.version, "messages": HELLO, "stream": False})
        form = {**api.key, "content-type": "application/x-www-form-urlencoded"}
        assert (await api.http.post(f"{api.url}/api/chat", content=data, headers=form)).status_code == 200
        page = {**form, "origin": "http://page.example"}
        assert (await api.http.post(f"{api.url}/api/chat", content=data, headers=page)).status_code == 403


async def test_a_failure_within_a_stream(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, client(api) as ask:
        long = {"num_predict": 40_000, "seed": 1}  # another seed may end the text at once
        stream = await ask.chat(api.version, HELLO, stream=True, options=long)
        assert (await anext(stream)).message.content
        api.run.cancel()
        with pytest.raises(ollama.ResponseError, match="stopping"):
            await lines(stream)


def read(data: bytes) -> list[dict[str, Any]]:
    """Objects of an answer, as the client's types read them."""
    return [ollama.ChatResponse(**json.loads(line)).model_dump() for line in data.splitlines()]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4), st.sampled_from(NAMES), JSON)
def test_any_body_is_read_or_refused(body: dict[str, Any], field: str, value: Any) -> None:
    function = {"name": "f", "parameters": {"type": "object", field: value}}
    usual = {"model": "m", "messages": HELLO, "prompt": "p", "tools": [{"function": function}]}
    for parse in (chat_request, generate_request):
        for asked in (body, {**usual, **body}, {**usual, "options": body}, {**usual, field: value}):
            with suppress(FlexSpecError):
                for lenient in (False, True):
                    parse(asked, lenient)


CALLS = (
    'Yes.\n<tool_call>\n{"name": "f", "arguments": {"a": {"b": "}\\""}}}\n</tool_call>'
    '\n<tool_call>\n{"name": "g", "arguments": {"x": [1e400, "\\ud800"]}}\n</tool_call>'
)
TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]


@given(st.lists(st.integers(0, len(CALLS)), max_size=8), st.booleans())
def test_calls_are_whole_however_the_text_came(cuts: list[int], cut_off: bool) -> None:
    wanted = chat_request({"model": "m", "messages": HELLO, "tools": TOOLS})
    text, end = text_of(wanted), End("length" if cut_off else "stop")
    shown = CALLS[: -20 if cut_off else None]
    text.confirmed([(shown, "device")])
    sent = wanted.form([text], RESPONSES).whole([end])
    first = json.loads(sent)["message"]["tool_calls"][0]
    assert first == {
        "id": first["id"],
        "function": {"index": 0, "name": "f", "arguments": {"a": {"b": '}"'}}},
    }
    whole, *_ = read(sent)
    form = wanted.form([text], RESPONSES)
    news = [
        Part(shown[start:stop], "", None)
        for start, stop in pairwise([0, *sorted(cuts), len(CALLS)])
        if start < stop
    ]
    *parts, last = read(b"".join([*(form.news(0, part) for part in news), form.ended(0, end)]))
    assert "".join(part["message"]["content"] for part in parts) == whole["message"]["content"] == "Yes."
    calls = [call for part in parts for call in part["message"]["tool_calls"] or []]
    assert calls == (whole["message"]["tool_calls"])
    made = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert made == [("f", {"a": {"b": '}"'}}), ("g", {"x": [math.inf, "\ud800"]})][: 1 if cut_off else 2]
    assert (last["done_reason"], last["message"]["content"]) == ("length" if cut_off else "stop", "")


async def test_a_silent_stream_has_lines_without_text() -> None:
    wanted = chat_request({"model": "m", "messages": HELLO})
    text = text_of(wanted)
    text.confirmed([("a", "device")])
    asyncio.get_running_loop().call_later(0.2, finish, text, End("stop"))
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    await asyncio.wait_for(reply([text], wanted, RESPONSES, ApiSettings(heartbeat=0.02), never, send), 60)
    assert [line["message"]["content"] for line in read(b"".join(sent))][:3] == ["a", "", ""]


async def test_a_conversation_that_is_too_long(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, max_context=100) as api, client(api) as ask:
        asked: dict[str, Any] = {"model": api.version, "options": {"seed": 7, "num_predict": 9}}
        turns = [{"role": "user", "content": "hello " * 30}, {"role": "assistant", "content": "yes"}, *HELLO]
        assert (await ask.chat(messages=turns, **asked)).message.content == alone("hello", 7, 9)
        refused = await api.post("/api/chat", {**asked, "messages": turns, "truncate": False})
        assert (refused.status_code, "shorten" in refused.json()["error"]) == (400, True)


def test_requests() -> None:
    options = {
        "temperature": 0, "top_k": -1, "top_p": 1, "min_p": 0.1, "seed": -1, "num_predict": -2, "stop": ["\n", ""],
        "num_ctx": 8192.0,
    }  # fmt: skip
    function = {"name": "f", "arguments": {"a": [1], "b": "é"}}
    call = {"id": "c1", "index": 0, "type": "function", "function": function}
    other = {"id": "c2", "function": {"name": "g", "arguments": {}}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u", "images": []},
        {"role": "assistant", "content": None, "tool_calls": [call, other], "thinking": "hm"},
        {"role": "tool", "content": "q", "tool_call_id": "c2"},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "h", "arguments": {}}}]},
        {"role": "tool", "content": "o", "tool_name": "h"},
    ]
    wanted = chat_request(
        {"model": "m", "messages": messages, "options": options, "think": False, "format": ""}
    )
    assert wanted.spec.prompt == (
        Turn("system", "s"),
        Turn("user", "u"),
        Turn("assistant", "", (ReadCall("f", '{"a": [1], "b": "é"}', "c1"), ReadCall("g", "{}", "c2"))),
        Turn("tool", "r", tool="f", answers="c1"),
        Turn("tool", "q", tool="g", answers="c2"),
        Turn("assistant", "", (ReadCall("h", "{}"),)),
        Turn("tool", "o", tool="h"),
    )
    asked = wanted.spec
    assert (asked.sampling, asked.seed) == (PartialSampling(0.0, 0, 1.0, 0.1), None)
    assert (asked.limit, asked.stops, asked.grammar, asked.tools) == (WHOLE_CONTEXT, ("\n",), None, None)
    assert wanted.stream
    assert generate_request({"model": "m", "prompt": "p", "options": {"seed": 2**64 + 5}}).spec.seed == 5

    def add(a: int | list[str], b: int = 1) -> str:
        """Add.

        Args:
            a: first
            b: second
        """
        return f"{a}{b}"

    # As the client's makers describe a function of Python, with types that no JSON schema has.
    told = ollama._utils.convert_function_to_tool(add).model_dump(exclude_none=True)
    tools = chat_request({"model": "m", "messages": messages, "tools": [told]}).spec.tools
    assert tools is not None
    assert set(tools.tools[0].schema["properties"]["a"]["type"]) == {"integer", "array"}
    assert tools.tools[0].schema["properties"]["b"]["type"] == "integer"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for form, source in (("json", '{"type":"object"'), (schema, '"a":{"type":"integer"}')):
        grammar = generate_request({"model": "m", "prompt": "p", "format": form}).spec.grammar
        assert grammar is not None
        assert source in grammar.source
    lenient = chat_request(
        {"model": "m", "messages": messages, "think": True, "x": 1, "options": {"mirostat": 1}}, True
    )
    assert set(lenient.ignored) == {"think", "x", "options.mirostat"}
    with pytest.raises(UsageError, match="two tools"):
        chat_request({"model": "m", "messages": messages, "tools": [told, told]})
    with pytest.raises(ApiError, match=r"tools\[0\].function"):
        chat_request({"model": "m", "messages": messages, "tools": [{"type": "function"}]})
