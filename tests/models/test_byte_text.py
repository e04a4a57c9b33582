"""Texts of bytes: what a server streamed comes out as it was, however it is cut on the way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_worker.engine.servers.chat import Writer, body_of, event_of, read_request, version_of
from flexspec_mq.errors import ServerRefused
from flexspec_mq.grammar.tools import Aside, CallArguments, CallBegins, CallEnds, Content
from flexspec_mq.models.byte_text.ids import (
    MARKS,
    ByteDecoder,
    ByteEnd,
    Channel,
    channels,
    served_usage,
    whole_characters,
)
from flexspec_mq.models.byte_text.parser import ChannelParser
from flexspec_mq.models.load import byte_text
from flexspec_mq.models.text import StreamDecoder, stream_decoder
from schemas.served import ServedMessage, ServedRequest, ServedUsage

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=MARKS), min_size=1, max_size=12)
PART = st.tuples(st.sampled_from(["content", "reasoning_content", "refusal"]), TEXT)
CALL = st.tuples(st.just("call"), st.tuples(TEXT, st.lists(TEXT, max_size=3)))
USAGE = ServedUsage(prompt_tokens=7, completion_tokens=9)


def streamed(parts: Sequence[tuple[str, object]]) -> list[int]:
    """Ids of an answer, from the events of a server."""
    ids: list[int] = []
    writer, number = Writer(ids), -1
    for kind, what in parts:
        if kind != "call":
            writer.take(event_of({"choices": [{"delta": {kind: what}}]}).choices[0])
            continue
        assert isinstance(what, tuple)
        number += 1
        pieces = [{"name": what[0], "arguments": ""}, *({"arguments": each} for each in what[1])]
        for piece in pieces:
            call = {"index": number, "function": piece}
            writer.take(event_of({"choices": [{"delta": {"tool_calls": [call]}}]}).choices[0])
    writer.finish(USAGE, ByteEnd.STOP)
    return ids


@given(st.lists(st.one_of(PART, CALL), max_size=6), st.data())
def test_what_a_server_streamed_comes_out_as_it_was(
    parts: list[tuple[str, object]], data: st.DataObject
) -> None:
    ids = streamed(parts)
    assert max(ids) < byte_text().vocab_size
    assert {*ids[:-1]}.isdisjoint(byte_text().eos)
    decoder, parser = ByteDecoder(), ChannelParser()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ids)), max_size=8)) | {0, len(ids)})
    whole, events = "", []
    for begin, end in pairwise(cuts):
        piece = decoder.push(ids[begin:end])
        for event in parser.push(piece):
            if isinstance(event, Content | Aside):
                assert (whole + piece)[event.at :].startswith(event.text)
            events.append(event)
        whole += piece
    assert "".join(event.text for event in events if isinstance(event, Content)) == "".join(
        str(what) for kind, what in parts if kind == "content"
    )
    for kind, field in (("reasoning", "reasoning_content"), ("refusal", "refusal")):
        told = [event.text for event in events if isinstance(event, Aside) and event.kind == kind]
        assert "".join(told) == "".join(str(what) for name, what in parts if name == field)
    calls = [what for kind, what in parts if kind == "call" and isinstance(what, tuple)]
    assert [(call.name, call.arguments) for call in parser.calls] == [
        (name, "".join(pieces)) for name, pieces in calls
    ]
    assert sum(isinstance(event, CallBegins) for event in events) == len(calls)
    assert sum(isinstance(event, CallEnds) for event in events) == len(calls)
    assert all(event.text for event in events if isinstance(event, CallArguments))
    assert not parser.within
    assert served_usage(ids) == USAGE
    assert served_usage(ids[:-1]) is None


@given(TEXT)
def test_a_character_is_cut_nowhere(text: str) -> None:
    ids = [Channel.CONTENT, *text.encode()]
    for end in range(len(ids) + 1):
        whole = whole_characters(ids[:end])
        assert end - 4 < whole <= end
        assert bytes(ids[1:whole]).decode() == text[: len(bytes(ids[1:whole]).decode())]
        assert channels(ids[:whole]) == (
            [(Channel.CONTENT, bytes(ids[1:whole]).decode())] if whole > 1 else []
        )


def test_a_mark_in_a_servers_text_is_no_mark() -> None:
    (_, text), *_ = channels(streamed([("content", f"a{MARKS}b")]))
    assert text == "a" + "\N{REPLACEMENT CHARACTER}" * len(MARKS) + "b"


def test_texts_of_bytes_have_a_decoder_of_their_own(tmp_path: object) -> None:
    del tmp_path
    text = byte_text()
    assert isinstance(stream_decoder(text.tokenizer), ByteDecoder)
    assert not isinstance(stream_decoder(text.tokenizer), StreamDecoder)
    assert text.tokenizer.decode(text.tokenizer.encode("Grüße, 世界")) == "Grüße, 世界"


@pytest.mark.parametrize(
    "prompt",
    [
        b"",
        b"[" * 10_000,
        b'{"messages":[]}',
        b'{"messages":[{"role":"user","content":"a"}],"prompt":"b"}',
        b'{"messages":[{"role":"user","content":"a"}],"stream":false}',
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://127.0.0.1/"}}]}]}',
        b'{"messages":[{"role":"developer","content":"a"}]}',
    ],
)
def test_a_device_has_nothing_asked_of_the_server_but_a_text(prompt: bytes) -> None:
    with pytest.raises(ServerRefused, match="the device's request"):
        read_request(prompt)


def test_a_request_reaches_the_server_as_its_client_sent_it() -> None:
    asked = ServedRequest(messages=(ServedMessage("user", "hi"),), temperature=0.5, stop=("x",), max_tokens=3)
    body = body_of(read_request(msgspec.json.encode(asked)), "m", 2**40 + 5)
    assert body == {
        "messages": ({"role": "user", "content": "hi"},), "temperature": 0.5, "stop": ("x",), "max_tokens": 3,
        "model": "m", "seed": 5, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("/models/qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct-q4_k_m"),
        ("llama3.2:3b", "llama3.2-3b"),
        ("org/Model Name", "Model-Name"),
        ("+/#", "model"),
    ],
)
def test_a_models_name_is_a_version(model: str, version: str) -> None:
    assert version_of(model) == version
