"""Nodes that end in the middle of a text, and the next ones, which go on with it from the same file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from hashlib import blake2b, sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from broker.launcher import PrivateBroker
from edge_node.api.http.bodies import canonical
from edge_node.api.response_store import client_of
from edge_node.outbox.entries import Entry
from edge_node.outbox.journal import Journal
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from tests.daemons import Daemon, FakeEngine, until, worker_at
from tests.edge_node.api.served import (
    Served,
    alone,
    another,
    content,
    ids_of,
    keyed,
    links_to,
    said,
    served,
    streamed,
    waiting_engine,
)

VERSION = "restarts"
LETTERS = "abcdefghijkl"
KEY = keyed("k")
ASK: dict[str, Any] = {"max_tokens": 200, "ignore_eos": True, "seed": 5}
TEXT = alone("hello", 5, 200, ignore_eos=True)


@asynccontextmanager
async def node(broker: PrivateBroker, path: Path, edge: str = "phone", **more: Any) -> AsyncIterator[Served]:
    """An incarnation of a node, whose outbox is this file."""
    settings: dict[str, Any] = {"workers": 0, "version": VERSION, "grace": 0.2, **more}
    async with served(broker, edge={"edge": edge}, journal=Journal(path), **settings) as api:
        yield api


@asynccontextmanager
async def slow_worker(broker: PrivateBroker) -> AsyncIterator[tuple[Daemon, FakeEngine]]:
    """A worker that takes its time, so that texts are long under way."""
    engine = FakeEngine(before=lambda _items: time.sleep(0.01))
    async with worker_at(links_to(broker), "w", engine, version=VERSION) as daemon:
        yield daemon, engine


async def begun(api: Served) -> str:
    """Ask for a stream and go away after its first text; what was read of it."""
    body = {"model": VERSION, "messages": [{"role": "user", "content": "hello"}], "stream": True, **ASK}
    request = api.http.build_request("POST", f"{api.url}/v1/chat/completions", json=body, headers=KEY)
    answer = await api.http.send(request, stream=True)
    assert answer.status_code == 200
    read = ""
    async for part in answer.aiter_text():
        read += part
        if shown := streamed(read):
            await answer.aclose()
            return shown
    raise AssertionError(read)


async def holds(api: Served, count: int) -> None:
    """Wait until the outbox has so many requests."""
    await until(lambda: sum(api.api.texts.outbox.counts.values()) == count)


async def opened(api: Served) -> None:
    """Wait until the session of a text is in the file."""
    await until(lambda: api.node.sessions == 1)
    while (await known(api))[0].opened is None:  # noqa: ASYNC110  the file tells nobody
        await asyncio.sleep(0.01)


async def known(api: Served) -> Any:
    outbox = api.api.texts.outbox
    return await outbox.run(outbox.journal.entries)


async def test_a_text_goes_on_in_the_next_life_of_its_node(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    """The same session: no token is computed again, and the worker has read the prompt once."""
    path = tmp_path / "outbox.sqlite"
    async with slow_worker(mosquitto) as (daemon, engine):
        async with node(mosquitto, path) as api:
            shown = await begun(api)
            (entry,) = await known(api)
            assert (entry.state, api.node.sessions) == ("writing", 1)
        assert daemon.kept == 1  # no worker was told that the node ended
        async with node(mosquitto, path) as api:
            (again,) = await known(api)
            assert (again.id, again.restarts, again.opened.session) == (entry.id, 1, entry.opened.session)
            assert again.tokens
            await until(lambda: api.node.sessions == 1)
            assert list(api.node._sessions) == [entry.opened.session]
            await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
            body = {"stream": True, **ASK}
            answer = await api.chat(headers=KEY, **body)
            text = streamed(answer.text)
            assert text == TEXT
            assert text.startswith(shown)
            assert answer.headers["x-flexspec-outbox"] == entry.id
            assert daemon.worker.machine.counters.opened == 1
            prompts = {prompt for batch in engine.batches for prompt in batch}
            assert len(prompts) == 1


async def test_requests_made_while_offline_go_out_in_their_order(mosquitto: PrivateBroker) -> None:
    proxy = Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port))
    async with proxy.listening() as link, served(mosquitto, through=link.port, wait=60.0) as api:
        link.stall(3.0)
        link.cut()
        await until(lambda: not api.node.link.is_up)
        asking = []
        for number, letter in enumerate(LETTERS):
            asking.append(asyncio.create_task(api.chat(letter, headers=keyed(letter), **ASK)))
            await holds(api, number + 1)
        assert api.node.sessions == 0
        await until(lambda: api.api.texts.waiting == 12)
        answers = [content(await each) for each in asking]
        assert answers == [alone(letter, 5, 200, ignore_eos=True) for letter in LETTERS]
        prompts = [prompt for batch in api.daemons[0].engine.batches for prompt in batch]
        assert sorted(LETTERS, key=lambda letter: prompts.index(ids_of(letter))) == [*LETTERS]


async def test_a_request_is_not_old_that_a_worker_may_have_written_meanwhile(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """A delivery may be at the broker for as long as it is kept there."""
    path, engine = tmp_path / "outbox.sqlite", waiting_engine()
    async with worker_at(links_to(mosquitto), "w", engine, version=VERSION):
        async with node(mosquitto, path) as api:
            asking = asyncio.create_task(api.chat(headers=KEY, offline="deliver", **ASK))
            await opened(api)
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(2.1)
        engine.gate.set()
        async with node(mosquitto, path, outbox_age=2.0, outbox_for=60.0) as api:
            await until(lambda: api.api.texts.outbox.counts == {"unread": 1})


async def test_a_text_that_this_node_would_write_otherwise_is_not_spliced(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Shown text must go on as it began, or fail in words; a text of which nothing was shown begins anew."""
    path = tmp_path / "outbox.sqlite"
    async with slow_worker(mosquitto):
        async with node(mosquitto, path) as api:
            await begun(api)
            await until(lambda: api.api.texts.outbox.counts == {"writing": 1})
        journal = Journal(path)
        (entry,) = journal.entries()
        journal.open(entry.id, other_root(entry.opened))
        journal.close()
        async with node(mosquitto, path) as api:
            await until(lambda: api.api.texts.outbox.counts == {"failed": 1})
            (failed,) = await known(api)
            assert "another text now than the one that it began" in failed.error
            answer = await api.chat(headers=KEY, stream=True, **ASK)  # asked again, it begins anew
            assert streamed(answer.text) == TEXT
    path = tmp_path / "unshown.sqlite"
    engine = waiting_engine()
    async with worker_at(links_to(mosquitto), "w2", engine, version=VERSION):
        async with node(mosquitto, path) as api:
            asking = asyncio.create_task(api.chat(headers=KEY, **ASK))
            await opened(api)
        await asyncio.gather(asking, return_exceptions=True)
        journal = Journal(path)
        (entry,) = journal.entries()
        journal.open(entry.id, other_root(entry.opened))
        journal.close()
        engine.gate.set()
        async with node(mosquitto, path) as api:
            assert content(await api.chat(headers=KEY, **ASK)) == TEXT


async def test_a_text_of_a_target_with_a_template_of_its_own_waits_for_a_worker_that_tells_it(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    path, links = tmp_path / "outbox.sqlite", links_to(mosquitto)
    engine = FakeEngine(lambda _items: time.sleep(0.01), facts=another("{{ messages[0]['content'] }}?"))
    async with worker_at(links, "w", engine, version=VERSION), node(mosquitto, path) as api:
        shown = await begun(api)
        await until(lambda: api.api.texts.outbox.counts == {"writing": 1})
    async with node(mosquitto, path) as api:
        await until(lambda: api.api.texts.waiting == 1)
        async with worker_at(links, "w", engine, version=VERSION):
            await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
            text = streamed((await api.chat(headers=KEY, stream=True, **ASK)).text)
            assert text.startswith(shown)
            assert text == streamed((await api.chat(stream=True, **ASK)).text)


def other_root(opened: Any) -> Any:
    return type(opened)(**{name: getattr(opened, name) for name in opened.__struct_fields__} | {"root": 1})


@pytest.mark.parametrize("begun", [True, False])
async def test_an_answer_that_is_written_meanwhile_is_taken_however_long_its_device_was_away(
    mosquitto: PrivateBroker, begun: bool
) -> None:
    proxy = Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port))
    more: dict[str, Any] = {"version": VERSION, "workers": 0, "outbox_age": 1.0}
    async with (
        slow_worker(mosquitto) as (daemon, engine),
        proxy.listening() as link,
        served(mosquitto, through=link.port, **more) as api,
    ):
        if not begun:
            engine.gate.clear()
        asking = asyncio.create_task(api.chat(headers=KEY, offline="deliver", **ASK))
        await until(lambda: any(text.machine.delivers for text in api.node._sessions.values()))
        await until(lambda: api.api.texts.outbox.counts == {"writing" if begun else "queued": 1})
        link.stall(6.0)
        link.cut()
        asking.cancel()
        engine.gate.set()
        await until(lambda: daemon.worker.machine.counters.delivered)
        await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
        assert content(await api.chat(headers=KEY, offline="deliver", **ASK)) == TEXT


async def test_a_question_in_a_lift_is_answered_when_the_door_opens(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Mode `deliver` is a patience by itself, and the node draws the key: who asked may leave, and the node end."""
    path, ask = tmp_path / "outbox.sqlite", {**ASK, "offline": "deliver"}
    async with node(mosquitto, path) as api:
        asking = asyncio.create_task(api.chat(**ask))
        await holds(api, 1)
        asking.cancel()
        await asyncio.sleep(2.5)  # longer than a request without a patience waits
        (queued,) = await known(api)
        assert (queued.state, queued.mode) == ("queued", "deliver")
    async with node(mosquitto, path) as api:
        async with slow_worker(mosquitto) as (daemon, _):
            await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
            assert daemon.worker.machine.counters.opened == 1
        outbox = api.api.texts.outbox
        answer = json.loads(await outbox.run(outbox.journal.answer, queued.id))
        assert "".join(piece for piece, _ in answer["pieces"]) == TEXT


async def test_a_request_for_another_version_than_the_nodes_own_is_kept_as_well(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Without a link nobody knows who serves what; and a worker that has gone takes no answer with it."""
    path, ask = tmp_path / "outbox.sqlite", {**ASK, "model": VERSION, "offline": "deliver"}
    proxy = Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port))
    async with proxy.listening() as link, node(mosquitto, path, version="own", through=link.port) as api:
        link.stall(60.0)
        link.cut()
        await until(lambda: not api.node.link.is_up)
        asking = asyncio.create_task(api.chat(headers=KEY, **ask))
        await holds(api, 1)
    await asyncio.gather(asking, return_exceptions=True)
    async with node(mosquitto, path, version="own") as api:
        async with slow_worker(mosquitto):
            await until(lambda: api.api.texts.outbox.counts == {"unread": 1})
        await until(lambda: VERSION not in api.node.directory.versions())
        assert content(await api.chat(headers=KEY, **ask)) == TEXT
        said(await api.chat(**ask), 404, "model_not_found")


async def test_a_response_that_goes_on_from_another_outlives_its_node(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Responses that others go on from are forgotten at the end of a node: the outbox has what was said in them."""
    path, ask = tmp_path / "outbox.sqlite", {"model": VERSION, "seed": 5, "ignore_eos": True}
    async with slow_worker(mosquitto):
        async with node(mosquitto, path) as api:
            first = (
                await api.post("/v1/responses", {**ask, "input": "hello", "max_output_tokens": 16})
            ).json()
            body = {**ask, "previous_response_id": first["id"], "input": "more", "max_output_tokens": 200}
            asking = asyncio.create_task(api.post("/v1/responses", body, idempotency_key="k"))
            await holds(api, 1)
        await asyncio.gather(asking, return_exceptions=True)
        async with node(mosquitto, path) as api:
            (part,) = (await api.post("/v1/responses", body, idempotency_key="k")).json()["output"][0][
                "content"
            ]
            said_first = first["output"][0]["content"][0]["text"]
            told = (("user", "hello"), ("assistant", said_first), ("user", "more"))
            turns = [{"role": role, "content": words} for role, words in told]
            assert part["text"] == content(await api.chat(messages=turns, **ASK))
            said(await api.post("/v1/responses", body), 400, "previous_response_not_found")


async def test_requests_of_version_0_2_0_are_written_found_and_shown(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Then the body of a request was kept: here those of 20 pending ones, and of 20 that are done."""
    path, hello = tmp_path / "outbox.sqlite", [{"role": "user", "content": "hello"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": hello, "seed": 5, "max_tokens": 12, "ignore_eos": True},
        "/v1/completions": {"prompt": "hello", "seed": 5, "max_tokens": 12, "ignore_eos": True},
        "/v1/responses": {"input": hello, "seed": 5, "max_output_tokens": 16, "ignore_eos": True},
        "/api/chat": {"model": VERSION, "messages": hello, "options": {"num_predict": 12}, "stream": False},
    }
    async with slow_worker(mosquitto):
        async with node(mosquitto, tmp_path / "first") as api:
            for at, body in bodies.items():
                for number in range(5):
                    await api.post(at, body, idempotency_key=f"done {number} {at}")
            answers = {entry.key: await api.api.texts.outbox.run(
                api.api.texts.outbox.journal.answer, entry.id
            ) for entry in await known(api)}  # fmt: skip
        with closing(Journal(path)) as journal:
            for state, number, (at, body) in product(("done", "left"), range(5), bodies.items()):
                name = f"{state} {number} {at}"
                digest = blake2b(canonical([at, body])).digest()
                entry = Entry(
                    id=sha256(name.encode()).hexdigest()[:24],
                    key=name,
                    digest=digest,
                    path=at,
                    body=json.dumps(body).encode(),
                    client=client_of(Request({"type": "http", "headers": []})),
                    accepted=journal.now(),
                )
                journal.accept(entry)
                if state == "done":
                    journal.finish(entry.id, answers[name])
        async with node(mosquitto, path) as api:
            await until(lambda: api.api.texts.outbox.counts.get("unread") == 40)
            entries = {entry.key: entry for entry in await known(api)}
            assert len(entries) == 40
            for at, body in bodies.items():
                told = [
                    await api.post(at, body, idempotency_key=f"{state} 0 {at}") for state in ("done", "left")
                ]
                assert [each.status_code for each in told] == [200, 200]
                texts = {json.dumps(words(each.json())) for each in told}
                assert len(texts) == 1 or "seed" not in body
            assert len(await known(api)) == 40
            views = (await api.get("/v1/outbox")).json()["data"]
            assert {view["prompt"] for view in views} == {"hello"}


def words(answer: dict[str, Any]) -> Any:
    """The text of an answer, of any API."""
    (first,) = answer.get("choices") or answer.get("output") or [answer]
    message = first.get("message", first)
    return first.get("text") or message.get("content")
