"""Provisional text behind confirmed text, as readers and clients follow it, and streams that go on where one broke."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.api import ollama
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.openai.requests import chat_request, completion_request
from edge_node.api.openai.responses import responses_request
from edge_node.api.response_store import ResponseStore
from edge_node.api.settings import ApiSettings
from edge_node.text.machine import End, EndReason, Text
from edge_node.text.reading import Part, read
from edge_node.text.spec import IdempotencyKey, TextRequest, TextSpec
from flexspec_mq.grammar.tools import HERMES, ReadCall
from schemas.openai import Provisional, unconfirmed
from tests.edge_node.api.served import RESPONSES, finish, text_of

Step = tuple[str, str]
"""An event of a text: it is confirmed (``add``), drafted (``unverified``), or its reader looks (``read``)."""
WORDS = st.text("ab", max_size=5)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "unverified", "read"]), WORDS).filter(lambda step: step != ("add", "")),
    max_size=30,
)


def new() -> Text:
    return text_of(TextRequest(spec=TextSpec(prompt="x", offline="provisional")))


def take(text: Text, step: Step) -> None:
    """Let a step happen."""
    what, word = step
    if what == "add":
        text.confirmed([(word, "target")])
    elif what == "unverified":
        text.unverified(word)


async def followed(steps: Sequence[Step], reason: EndReason) -> tuple[Text, list[Part]]:
    """A text, and what a reader that looks now and then was told of it."""
    text, parts = new(), list[Part]()
    reading = read(text, patience=60)
    assert isinstance(reading, AsyncGenerator)
    news = asyncio.ensure_future(anext(reading))
    for step in steps:
        take(text, step)
        if step[0] == "read":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if news.done():
            parts.append(news.result())
            news = asyncio.ensure_future(anext(reading))
    finish(text, End(reason))
    parts.append(await news)
    parts += [part async for part in reading]
    return text, parts


@given(STEPS, st.sampled_from(["stop", "provisional"]))
def test_a_reader_has_both_strings_of_the_same_moment_whenever_it_looks(
    steps: list[Step], reason: EndReason
) -> None:
    text, parts = asyncio.run(followed([*steps, ("add", "!"), ("unverified", "ab")], reason))
    moments = {("", "")}
    again = new()
    for step in [*steps, ("add", "!"), ("unverified", "ab")]:
        take(again, step)
        moments.add((again.whole, again.provisional))
    confirmed = ""
    for part in parts[:-1]:
        confirmed += part.text
        assert (confirmed, part.provisional) in moments
    assert confirmed + parts[-1].text == text.whole == again.whole
    assert parts[-1].provisional == text.provisional == ("ab" if reason == "provisional" else "")


@given(st.text("ab", max_size=8), st.text("ab", min_size=1, max_size=8))
def test_confirmed_text_eats_what_agrees_and_removes_what_does_not(drafted: str, confirmed: str) -> None:
    text = new()
    text.unverified(drafted)
    text.confirmed([(confirmed, "target")])
    if drafted.startswith(confirmed):
        assert confirmed + text.provisional == drafted
    else:
        assert not text.provisional
    finish(text, End("stop"))
    assert not text.provisional
    text.unverified("late")
    assert not text.provisional


SAID = [{"role": "user", "content": "x"}]
TOOLS = [{"name": "light", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}}]
CALLS = (
    "I look.\n"
    + HERMES.call(ReadCall("light", '{"room": "Küche"}'))
    + "\n"
    + HERMES.call(ReadCall("light", '{"room": ""}'))
)
TOLD: list[tuple[Callable[..., ApiRequest], dict[str, Any]]] = [
    (chat_request, {"messages": SAID, "tools": [{"type": "function", "function": each} for each in TOOLS]}),
    (
        lambda body: responses_request(body, store=ResponseStore(ApiSettings()), client=b""),
        {"input": "x", "tools": [{"type": "function", **each} for each in TOOLS]},
    ),
]


class Client:
    """A client of any API that follows a stream."""

    def __init__(self) -> None:
        self.content = self.provisional = ""
        self.calls: dict[int, list[str]] = {}
        self.output: list[dict[str, Any]] = []

    def take(self, stream: bytes) -> None:
        """Follow a part of a stream, of lines or events."""
        for body in _bodies(stream.decode()):
            self._take(body)

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("type", "").startswith("response."):
            self._response(body)
        else:
            choice = (body.get("choices") or [body])[0]
            message = choice.get("delta", choice.get("message", {}))
            self._confirmed(message.get("content") or choice.get("text") or "")
            for call in message.get("tool_calls") or []:
                self._called(call["index"], call["function"].get("name"), call["function"]["arguments"])
        told = body.get("flexspec") or body
        if change := told.get("provisional"):
            self.provisional = Provisional(**change).applied(self.provisional)

    def _response(self, body: dict[str, Any]) -> None:
        match body["type"]:
            case "response.output_text.delta":
                self._confirmed(body["delta"])
            case "response.output_item.added" if body["item"]["type"] == "function_call":
                self._called(body["output_index"], body["item"]["name"], "")
            case "response.function_call_arguments.delta":
                self._called(body["output_index"], None, body["delta"])
            case "response.completed":
                self.output = body["response"]["output"]

    def _confirmed(self, text: str) -> None:
        self.content += text
        self.provisional = unconfirmed(self.provisional, text)

    def _called(self, index: int, name: str | None, arguments: str) -> None:
        self.calls.setdefault(index, [name or "", ""])[1] += arguments


def _bodies(stream: str) -> Iterator[dict[str, Any]]:
    for line in stream.splitlines():
        if line.startswith(("data: {", "{")):
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    "wanted",
    [
        chat_request({"messages": SAID, "offline": "provisional", "stream": True}),
        completion_request({"prompt": "x", "offline": "provisional", "stream": True}),
        responses_request(
            {"input": "x", "offline": "provisional", "stream": True},
            store=ResponseStore(ApiSettings()),
            client=b"",
        ),
        ollama.chat_request({"model": "m", "messages": SAID, "offline": "provisional"}),
    ],
    ids=["chat", "completion", "response", "ollama"],
)
@given(steps=STEPS, reason=st.sampled_from(["stop", "provisional"]))
def test_a_client_that_follows_the_events_has_both_strings(
    wanted: ApiRequest, steps: list[Step], reason: EndReason
) -> None:
    text, client = text_of(wanted), Client()
    form, confirmed = wanted.form([text], RESPONSES), 0
    client.take(form.first())
    for step in [*steps, ("read", "")]:
        take(text, step)
        if step[0] == "read":
            client.take(form.news(0, Part(text.whole[confirmed:], text.provisional, None)))
            confirmed = text.size
            assert (client.content, client.provisional) == (text.whole, text.provisional)
    finish(text, End(reason))
    client.take(form.news(0, Part("", text.provisional, None)))
    client.take(form.ended(0, End(reason)) + form.last([End(reason)]))
    assert (client.content, client.provisional) == (text.whole, text.provisional)
    whole = json.loads(wanted.form([text], RESPONSES).whole([End(reason)]))
    told = whole.get("flexspec") or (whole.get("choices") or [whole])[0].get("flexspec") or whole
    assert ("provisional" in told) == (reason == "provisional")
    assert told.get("provisional", {}).get("text", "") == text.provisional


@pytest.mark.parametrize("offline", ["hold", "deliver"])
def test_who_did_not_ask_for_provisional_text_is_told_of_none(offline: str) -> None:
    wanted = chat_request({"messages": SAID, "offline": offline, "stream": True})
    form = wanted.form([text_of(wanted)])
    assert b"flexspec" not in form.news(0, Part("a", "b", None)) + form.news(0, Part("", "c", None))


@given(st.integers(0, len(CALLS)), st.booleans())
def test_provisional_calls_are_shown_as_text_before_them_and_no_call(confirmed: int, streamed: bool) -> None:
    wanted = chat_request({**TOLD[0][1], "offline": "provisional", "stream": streamed})
    text, client = text_of(wanted), Client()
    text.confirmed([(CALLS[:confirmed], "target")])
    text.unverified(CALLS[confirmed:])
    finish(text, End("provisional"))
    if streamed:
        form = wanted.form([text], RESPONSES)
        client.take(form.news(0, Part(text.whole, text.provisional, None)))
        shown, calls = (client.content, client.provisional), client.calls
    else:
        (choice,) = json.loads(wanted.form([text], RESPONSES).whole([End("provisional")]))["choices"]
        shown = choice["message"]["content"] or "", choice["flexspec"]["provisional"]["text"]
        calls = choice["message"].get("tool_calls", [])
    assert (shown[0] + shown[1]).rstrip() == "I look."
    assert len(calls) <= CALLS[:confirmed].count("<tool_call>")


def parts_of(text: str, cuts: Sequence[int]) -> list[Part]:
    """A text that comes in parts."""
    borders = [0, *sorted(cuts), len(text)]
    return [Part(text[start:stop], "", None) for start, stop in pairwise(borders) if start < stop]


def streamed(form: Form, text: str, cuts: Sequence[int], end: End) -> bytes:
    """A whole stream of a text that comes in parts."""
    stream = form.first()
    for part in parts_of(text, cuts):
        stream += form.news(0, part)
    return stream + form.ended(0, end) + form.last([end])


@pytest.mark.parametrize(("parse", "body"), TOLD, ids=["chat", "response"])
@given(
    text=st.sampled_from([CALLS, CALLS[:-30], "No < tools <tool", "", "a"]),
    cuts=st.lists(st.integers(0, len(CALLS)), max_size=8),
    again=st.lists(st.integers(0, len(CALLS)), max_size=8),
    data=st.data(),
)
def test_a_stream_goes_on_behind_its_last_event(
    parse: Callable[..., ApiRequest],
    body: dict[str, Any],
    text: str,
    cuts: list[int],
    again: list[int],
    data: st.DataObject,
) -> None:
    wanted, end = parse({**body, "stream": True}), End("stop")
    written = text_of(wanted, IdempotencyKey("k", b""))
    written.confirmed([(text, "target")])
    cuts, again = ([cut for cut in each if cut < len(text)] for each in (cuts, again))
    whole = streamed(wanted.form([written], RESPONSES), text, cuts, end).decode()
    all_events = whole.split("\n\n")[:-1]
    got = all_events[: data.draw(st.integers(0, len(all_events)))]
    ids = [line[4:] for event in got for line in event.splitlines() if line.startswith("id: ")]
    expected, client = Client(), Client()
    expected.take(whole.encode())
    form = wanted.form([written], RESPONSES)
    if ids:
        client.take("\n\n".join(got).encode())
        name, _, position = ids[-1].partition(":")
        assert name == written.id
        form.followers[0].go_on(int(position))
    client.take(streamed(form, text, again, end))
    assert (client.content, client.calls, client.output) == (
        expected.content,
        expected.calls,
        expected.output,
    )


@given(has=st.text("ab", min_size=1, max_size=9), drafts=st.lists(WORDS, min_size=12, max_size=12))
def test_a_client_that_has_more_than_its_node_is_told_of_what_stands_behind_that(
    has: str, drafts: list[str]
) -> None:
    """A node that was killed may have lost the last half second of its tokens."""
    wanted = chat_request({"messages": SAID, "offline": "provisional", "stream": True})
    text = text_of(wanted, IdempotencyKey("k", b""))
    form, client = wanted.form([text], RESPONSES), Client()
    client.content = has
    form.followers[0].go_on(len(has))
    for letter, draft in zip(has + "aba", drafts, strict=False):
        text.unverified(draft)
        client.take(form.news(0, Part("", text.provisional, None)))
        text.confirmed([(letter, "target")])
        client.take(form.news(0, Part(letter, text.provisional, None)))
        assert client.provisional == (text.provisional if text.size >= len(has) else "")
