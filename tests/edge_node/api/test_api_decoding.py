"""From commits to pieces of text: who wrote them, and where a stop string ends them."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from edge_node.api.openai.requests import chat_request
from edge_node.api.sending import reply
from edge_node.api.settings import ApiSettings
from edge_node.text.decoding import Origins, PieceDecoder, StopFilter
from edge_node.text.machine import End
from flexspec_mq.models.text import StreamDecoder
from flexspec_mq.protocol.effects import Commit
from lab.simulator.world import EOS
from schemas.openai import Writer
from tests.daemons import until
from tests.edge_node.api.served import (
    RESPONSES,
    events,
    expected,
    finish,
    ids_of,
    never,
    served,
    shown,
    text_of,
    tokenizer,
)

ORIGIN: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "include_origin": True}}
_DRAFTED_BY = st.sampled_from(["lookup", "worker", None])
COMMITS = st.lists(
    st.lists(st.tuples(st.integers(0, EOS - 1), _DRAFTED_BY), min_size=1, max_size=6), max_size=12
)
STOPS = st.lists(st.text("abthe ", min_size=1, max_size=3), max_size=3)


def committed(commits: Sequence[Sequence[tuple[int, Any]]]) -> list[Commit]:
    found, start = [], 0
    for commit in commits:
        tokens, origins = zip(*commit, strict=True)
        found.append(Commit(start=start, tokens=tokens, origins=origins))
        start += len(tokens)
    return found


def by_character(commits: Sequence[Commit]) -> list[tuple[str, Writer]]:
    """Each character and its origin, one token at a time."""
    decoder = StreamDecoder(tokenizer())
    found: list[tuple[str, Writer]] = []
    for commit in commits:
        for token, writer in zip(commit.tokens, commit.writers, strict=True):
            found += [(character, writer) for character in decoder.push([token])]
    return found + [(character, "target") for character in decoder.finish()]


@given(COMMITS, STOPS, st.lists(st.integers(0, 60)))
def test_pieces_are_the_text_whatever_is_held_back_and_however_it_is_read(
    commits: list[list[tuple[int, Any]]], stops: list[str], cuts: list[int]
) -> None:
    """Half characters, stop strings, and readers that take any part at any time."""
    origins, decoder = Origins(), PieceDecoder(tokenizer(), stops)
    text = ""
    for step in [*committed(commits), None]:
        found = decoder.finish() if step is None else decoder.push(step)
        origins.add(found)
        text += "".join(piece for piece, _ in found)
        assert "".join(piece for piece, _ in origins.cut(text, 0)) == text
    whole = "".join(character for character, _ in by_character(committed(commits)))
    stopped = StopFilter(stops)
    assert text == stopped.push(whole) + stopped.finish()
    assert decoder.stopped == stopped.hit
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    read: list[tuple[str, Writer]] = []
    for a, b in pairwise(borders):
        part = origins.cut(text[a:b], a)
        assert "".join(piece for piece, _ in part) == text[a:b]
        assert all(one[1] != other[1] for one, other in pairwise(part))
        read += part
    told = [(character, writer) for piece, writer in read for character in piece]
    assert told == by_character(committed(commits))[: len(text)]


def origin_of(found: list[dict[str, Any]]) -> tuple[str, list[list[Any]]]:
    """The content of a stream and its pieces; each chunk's pieces are its content."""
    content, told = "", []
    for chunk in found:
        for choice in chunk["choices"]:
            said = choice["delta"].get("content", "")
            content += said
            if said:
                assert "".join(piece for piece, _ in chunk["flexspec"]["pieces"]) == said
                told += chunk["flexspec"]["pieces"]
            else:
                assert "flexspec" not in chunk
    return content, told


async def test_the_official_client_can_ask(mosquitto: PrivateBroker) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "seed": 3, "max_tokens": 300}
    tokens, _ = expected(ids_of("hello"), 3, 300)
    async with served(mosquitto) as api:
        stream = await api.client.chat.completions.create(model=api.version, **asked, **ORIGIN)
        chunks = [chunk async for chunk in stream]
        content, told = origin_of(_plain(chunks))
        assert content == shown(tokens)
        accepted = sum(len(piece) for piece, writer in told if writer == "device")
        assert 0 < accepted < len(content)
        plain = await api.client.chat.completions.create(model=api.version, **asked, stream=True)
        assert all("flexspec" not in (chunk.model_extra or {}) for chunk in [one async for one in plain])


def _plain(chunks: Sequence[Any]) -> list[dict[str, Any]]:
    return [json.loads(chunk.model_dump_json(exclude_none=True)) for chunk in chunks]


def _joined(told: list[list[Any]]) -> list[tuple[str, str]]:
    return [(character, writer) for piece, writer in told for character in piece]


async def test_a_late_reader_gets_all_origins_in_one_chunk() -> None:
    wanted = chat_request({"messages": [{"role": "user", "content": "x"}], **ORIGIN})
    text = text_of(wanted)
    sent: list[bytes] = []
    may = asyncio.Semaphore(2)  # the head, and the chunk with the role

    async def send(message: Any) -> None:
        await may.acquire()
        sent.append(message.get("body", b""))

    replying = asyncio.create_task(reply([text], wanted, RESPONSES, ApiSettings(), never, send))
    writers: tuple[Writer, ...] = "target", "device", "worker"
    for number in range(100):
        piece = f"<{number}>"
        text.confirmed([(piece, writers[number % 3])])
        await asyncio.sleep(0)
    finish(text, End("stop"))
    await until(lambda: len(sent) == 2)
    for _ in range(10):
        may.release()
    await asyncio.wait_for(replying, 60)
    content, told = origin_of(events(b"".join(sent).decode()))
    assert content == text.whole
    every = [(character, writers[number % 3]) for number in range(100) for character in f"<{number}>"]
    assert _joined(told) == every
    assert len(sent) <= 6  # the lag came in one piece


# Stop strings: nothing of one is shown, whatever pieces the text comes in.

LETTERS = st.text("abc\n", max_size=30)
LETTER_STOPS = st.lists(st.text("abc\n", min_size=1, max_size=5), max_size=4)


def through(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Text that the stop filter shows of these pieces, and whether a stop string ended it."""
    stop = StopFilter(stops)
    shown = "".join(stop.push(piece) for piece in pieces)
    return shown + ("" if stop.hit else stop.finish()), stop.hit


def first_complete(stops: list[str], text: str) -> tuple[str, bool]:
    """The rule, by looking at every prefix."""
    for end in range(1, len(text) + 1):
        ending = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: min(ending)], True
    return text, False


@given(LETTERS, LETTER_STOPS, st.lists(st.integers(0, 30)))
def test_the_pieces_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    # Cut to single characters the filter sees every prefix; larger pieces must show the same.
    assert through(stops, list(text)) == first_complete(stops, text)
    assert through(stops, pieces) == first_complete(stops, text)


@given(LETTERS, LETTER_STOPS)
def test_nothing_is_held_back_that_cannot_become_a_stop(text: str, stops: list[str]) -> None:
    stop = StopFilter(stops)
    shown = stop.push(text)
    if not stop.hit:
        held = text[len(shown) :]
        assert not held or any(one.startswith(held) for one in stops)
        assert len(held) < max((len(one) for one in stops), default=1)
