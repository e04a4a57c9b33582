"""Calls of tools, and several answers, as OpenAI's own types read them; the texts are put into the node's store."""

import asyncio
import itertools
import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from broker.launcher import PrivateBroker
from edge_node.api.openai.chat import DONE, OpenAIForm
from edge_node.api.openai.requests import chat_request
from edge_node.api.sending import reply
from edge_node.api.settings import ApiSettings
from edge_node.text.decoding import Piece
from edge_node.text.machine import End, EndReason
from edge_node.text.reading import Part
from flexspec_mq.grammar.tools import HERMES, ReadCall
from schemas.status import WorkerStatus
from tests.daemons import until
from tests.edge_node.api.served import RESPONSES, alone, events, finish, never, said, served, text_of

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "light",
            "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
LIGHT, NOW = ReadCall("light", '{"room": "Küche"}'), ReadCall("now", "{}")
CALLS = HERMES.call(LIGHT) + "\n" + HERMES.call(NOW)


def asked(**more: Any) -> Any:
    return chat_request({"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, **more})


async def answered(parts: list[str], reason: EndReason, **more: Any) -> bytes:
    """Bytes that a client gets while a text comes in parts, each of another writer."""
    wanted = asked(**more)
    text = text_of(wanted)
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    replying = asyncio.create_task(reply([text], wanted, RESPONSES, ApiSettings(), never, send))
    for at, part in enumerate(parts):
        text.confirmed([(part, "worker" if at % 2 else "device")])
        await asyncio.sleep(0)
    finish(text, End(reason))
    await asyncio.wait_for(replying, 60)
    return b"".join(sent)


def assembled(stream: bytes) -> dict[str, Any]:
    """The message that the chunks of a stream make, as OpenAI's client has them; its calls in `calls`."""
    message: dict[str, Any] = {"content": None, "calls": [], "reason": None}
    for body in events(stream.decode()):
        choice = ChatCompletionChunk.model_validate(body).choices[0]
        message["reason"] = choice.finish_reason or message["reason"]
        if choice.delta.content:
            message["content"] = (message["content"] or "") + choice.delta.content
        for call in choice.delta.tool_calls or []:
            if call.index == len(message["calls"]):
                assert call.function is not None
                assert call.type == "function"
                message["calls"].append([call.id, call.function.name, ""])
            assert call.index == len(message["calls"]) - 1
            assert call.function is not None
            message["calls"][-1][2] += call.function.arguments or ""
    assert stream.endswith(DONE)
    return message


@pytest.mark.parametrize(
    ("text", "ends", "content", "calls", "reason"),
    [
        (CALLS, "stop", None, [LIGHT, NOW], "tool_calls"),
        ("I look.\n" + CALLS, "stop", "I look.", [LIGHT, NOW], "tool_calls"),
        ("No < tools <tool", "stop", "No < tools <tool", [], "stop"),
        (CALLS[:50], "length", None, [ReadCall("light", LIGHT.arguments[: 50 - len(HERMES.head("light"))])], "length"),
        (CALLS[:50], "stop", None, [ReadCall("light", LIGHT.arguments[: 50 - len(HERMES.head("light"))])], "length"),
        (CALLS[:20], "length", "", [], "length"), ("", "stop", "", [], "stop"),
    ],
)  # fmt: skip
async def test_calls_are_the_same_streamed_or_not(
    text: str, ends: EndReason, content: str | None, calls: list[ReadCall], reason: str
) -> None:
    for parts in ([text], list(text), [text[:9], text[9:]]):
        whole = ChatCompletion.model_validate_json(await answered(parts, ends))
        choice = whole.choices[0]
        assert (choice.message.content, choice.finish_reason) == (content, reason)
        made = [call for call in choice.message.tool_calls or [] if call.type == "function"]
        assert [(call.function.name, call.function.arguments) for call in made] == [
            call[:2] for call in calls
        ]
        streamed = assembled(await answered(parts, ends, stream=True))
        assert (streamed["content"], streamed["reason"]) == (content or None, reason)
        assert [tuple(call[1:]) for call in streamed["calls"]] == [call[:2] for call in calls]
        names = {call[0] for call in streamed["calls"]}
        assert len(names) == len(calls)
        assert all(name.startswith("call_") for name in names)


@given(st.lists(st.integers(0, len(CALLS) + 8), max_size=6))
def test_writers_are_told_of_the_content_alone(cuts: list[int]) -> None:
    text = "I look.\n" + CALLS
    wanted = asked(stream=True, stream_options={"include_origin": True})
    completion = text_of(wanted)
    form = OpenAIForm([completion], wanted)
    stream = b""
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for at, (a, b) in enumerate(itertools.pairwise(borders)):
        piece: Piece = (text[a:b], "worker" if at % 2 else "device")
        completion.confirmed([piece])
        stream += form.news(0, Part(text[a:b], "", None))
    bodies = events(stream.decode())
    told = [(body["choices"][0]["delta"].get("content"), body.get("flexspec")) for body in bodies]
    assert all((content is None) == (origin is None) for content, origin in told)
    assert all(content == "".join(part for part, _ in origin["pieces"]) for content, origin in told if origin)


async def test_several_answers_have_seeds_that_follow_each_other(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        texts = [alone("hello", seed, 12) for seed in (7, 8, 9)]
        whole = await api.client.chat.completions.create(
            model=api.version,
            messages=[{"role": "user", "content": "hello"}],
            seed=7,
            n=3,
            max_tokens=12,
            temperature=1,
        )
        assert [(choice.index, choice.message.content) for choice in whole.choices] == list(enumerate(texts))
        assert whole.usage is not None
        streamed: dict[int, str] = dict.fromkeys(range(3), "")
        ended: set[int] = set()
        usage = None
        async for chunk in await api.client.chat.completions.create(
            model=api.version, messages=[{"role": "user", "content": "hello"}], seed=7, n=3, max_tokens=12,
            temperature=1, stream=True, stream_options={"include_usage": True},
        ):  # fmt: skip
            usage = chunk.usage or usage
            for choice in chunk.choices:
                assert choice.index not in ended
                streamed[choice.index] += choice.delta.content or ""
                ended |= {choice.index} if choice.finish_reason else set()
        assert [*streamed.values()] == texts
        assert ended == {0, 1, 2}
        assert usage is not None
        assert usage.completion_tokens == whole.usage.completion_tokens
        assert usage.prompt_tokens == whole.usage.prompt_tokens
        pair = await api.client.completions.create(
            model=api.version, prompt="hello", seed=2**64 - 1, n=2, max_tokens=9
        )
        ones = [
            await api.client.completions.create(model=api.version, prompt="hello", seed=seed, max_tokens=9)
            for seed in (2**64 - 1, 0)
        ]
        assert [choice.text for choice in pair.choices] == [one.choices[0].text for one in ones]
        key = {"Idempotency-Key": "k"}
        first, second = [await api.chat(n=2, max_tokens=9, headers=key) for _ in range(2)]
        assert first.json() == second.json()
        said(await api.chat(max_tokens=9, headers=key), 422, "idempotency_key_reused")


async def test_what_a_lenient_node_ignores_is_said(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto, lenient=True) as api:
        caplog.set_level(logging.WARNING)
        odd: dict[str, Any] = {"a\r\nb: é": 1}
        for stream in (False, True):
            answer = await api.chat(max_tokens=3, bad_words=["x"], stream=stream, **odd)
            assert answer.headers["x-flexspec-ignored"] == "bad_words, a??b: ?"
            assert "bad_words, a??b: ?" in caplog.text
            caplog.clear()
        assert "x-flexspec-ignored" not in (await api.chat(max_tokens=3, bad_words=[])).headers


async def test_workers_that_read_no_grammars_are_told_of(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        for asked in (
            {"tools": TOOLS},
            {"response_format": {"type": "json_object"}},
            {"guided_choice": ["a"]},
        ):
            assert "install llguidance" in said(await api.chat(**asked), 503, "no_worker")["message"]
        assert (await api.chat(max_tokens=2, tools=TOOLS, tool_choice="none")).status_code == 200
        late = asyncio.create_task(api.chat(guided_choice=["a"], max_tokens=2))
        await until(lambda: len(api.api.texts) == 1)
        reads = WorkerStatus(state="online", epoch=1, at=0.0, worker="x", version=api.version, grammar="x 1")
        api.node.directory.take("x", msgspec.json.encode(reads))
        await until(lambda: api.node.sessions == 1)
        late.cancel()
