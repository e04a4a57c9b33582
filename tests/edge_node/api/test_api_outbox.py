"""The outbox over HTTP: what is kept, its text in the form of its request, and an end to it; and its command."""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.settings import ApiSettings
from edge_node.cli.main import main
from edge_node.cli.outbox import run_outbox
from edge_node.outbox.entries import Entry
from edge_node.outbox.journal import Journal
from edge_node.text.outbox_views import listed, shown
from edge_node.text.spec import Prompt, TextRequest, TextSpec
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn
from tests.daemons import until
from tests.edge_node.api.served import (
    Served,
    alone,
    content,
    events,
    keyed,
    said,
    served,
    streamed,
    waiting_engine,
)

BODY: dict[str, Any] = {"seed": 5, "max_tokens": 12, "ignore_eos": True}
OPTIONS = {"seed": 5, "num_predict": 12}


async def _views(node: Served) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await node.get("/v1/outbox", node.key)).json()["data"]
    return found


async def _until(node: Served, name: str, **fields: Any) -> dict[str, Any]:
    """A request's view when it has these values."""
    async with asyncio.timeout(60):
        while True:
            view: dict[str, Any] = (await node.get(f"/v1/outbox/{name}")).json()
            if fields.items() <= view.items():
                return view
            await asyncio.sleep(0.02)


async def test_an_answer_that_nobody_read_is_there_and_told_as_unread(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, heartbeat=0.2) as node:
        name = await node.leave("hello", "mine", **BODY)
        (view,) = await _views(node)
        assert (view["id"], view["state"] in ("queued", "writing"), view["read"]) == (name, True, False)
        assert (view["prompt"], view["path"], view["mode"]) == ("hello", "/v1/chat/completions", "hold")
        engine.gate.set()
        view = await _until(node, name, state="done", reason="length")
        assert (view["read"], view["tokens"]) == (False, 12)
        assert view["text"] == alone("hello", 5, 12, ignore_eos=True)
        assert view["request"]["spec"]["prompt"] == [
            {
                "role": "user",
                "content": "hello",
                "calls": [],
                "tool": "",
                "answers": "",
                "continued": False,
                "images": [],
            }
        ]
        again = await node.chat(headers=keyed("mine"), stream=True, **BODY)
        assert streamed(again.text) == view["text"]
        assert {again.headers["x-flexspec-outbox"]} == {name}
        assert {each["id"] for each in events(again.text)} == {f"chatcmpl-{name}"}
        await _until(node, name, read=True)
        assert node.daemons[0].worker.machine.counters.opened == 1


CHAT = {"messages": [{"role": "user", "content": "hello"}]}
FORMS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], str]]] = {
    "/v1/chat/completions": (CHAT | BODY, lambda told: told["choices"][0]["delta"].get("content", "")),
    "/v1/completions": ({"prompt": "hello", **BODY}, lambda told: told["choices"][0]["text"]),
    "/v1/responses": (
        {"input": "hello", "seed": 5, "ignore_eos": True, "max_output_tokens": 16},
        lambda told: told["delta"] if told["type"] == "response.output_text.delta" else "",
    ),
    "/api/chat": (CHAT | {"stream": False, "options": OPTIONS}, lambda told: told["message"]["content"]),
    "/api/generate": (
        {"prompt": "hello", "stream": False, "options": OPTIONS},
        lambda told: told["response"],
    ),
}


async def test_requests_of_all_apis_are_found_again_shown_and_streamed_from_any_event_on(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto) as node:
        for number, (path, (body, text_of)) in enumerate(FORMS.items(), 1):
            body = {"model": node.version, **body}  # noqa: PLW2901
            asked, again = [await node.post(path, body, idempotency_key=path) for _ in range(2)]
            assert asked.status_code == 200, asked.text
            assert asked.content == again.content or path.startswith("/api/")  # which says when it is told
            said_of_keys = await node.post(path, {**body, "stream": True}, idempotency_key=path)
            assert (said_of_keys.status_code, "another" in said_of_keys.text) == (422, True)
            assert node.daemons[0].worker.machine.counters.opened == number
            (view,) = [view for view in await _views(node) if view["path"] == path]
            assert (view["prompt"], view["state"]) == ("hello", "done")
            written = (await node.get(f"/v1/outbox/{view['id']}")).json()["text"]
            stream = await node.get(f"/v1/outbox/{view['id']}", {"accept": "text/event-stream"})
            assert told_by(stream.text, text_of) == written != ""
            ids = [line[4:] for line in stream.text.splitlines() if line.startswith("id: ")]
            assert bool(ids) == path.startswith("/v1")
            for since in ids if path == "/v1/completions" else ():
                headers = {"accept": "text/event-stream", "last-event-id": since}
                rest = await node.get(f"/v1/outbox/{view['id']}", headers)
                assert rest.headers["content-type"].startswith("text/event-stream")
                assert told_by(rest.text, text_of) == written[int(since.rpartition(":")[2]) :]
        for since in ("other:3", f"{view['id']}:{'9' * 5000}"):
            headers = {"accept": "text/event-stream", "last-event-id": since}
            told = said(await node.get(f"/v1/outbox/{view['id']}", headers), 404, "unknown_event")
            assert len(told["message"]) < 200
        assert len(said(await node.get(f"/v1/outbox/{'x' * 999}"), 404, "not_found")["message"]) < 300


def told_by(stream: str, text_of: Callable[[dict[str, Any]], str]) -> str:
    """The text that a stream tells, of events or lines."""
    lines = [line.removeprefix("data: ") for line in stream.split("\n")]
    return "".join(text_of(json.loads(line)) for line in lines if line.startswith("{"))


async def test_a_request_that_is_dropped_is_cancelled_and_forgotten(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, heartbeat=0.2) as node:
        name, path = await node.leave("hello", "mine/1?", **BODY), f"{node.url}/v1/outbox"
        body = {"messages": [{"role": "user", "content": "hello"}], **BODY}
        whole = asyncio.create_task(node.post("/v1/chat/completions", body, idempotency_key="mine"))
        async with node.http.stream(
            "GET", f"{path}/{name}", headers={"accept": "text/event-stream"}
        ) as stream:
            await until(lambda: len(node.api.texts) == 2)
            texts = [node.api.texts.text(view["id"]) for view in await _views(node)]
            await until(lambda: all(text is not None and text.readers == 1 for text in texts))
            dropped = await node.http.delete(f"{path}/mine/1%3F")
            assert (dropped.status_code, dropped.json()) == (200, {"id": name, "dropped": True})
            assert events((await stream.aread()).decode())[-1]["error"]["code"] == "dropped"
        assert (await node.http.delete(f"{path}/mine")).status_code == 200
        said(await whole, 410, "dropped")  # not 503: clients would ask again
        assert await _views(node) == []
        await until(lambda: not node.node.sessions and not node.daemons[0].kept)
        said(await node.get(f"/v1/outbox/{name}"), 404, "not_found")
        said(await node.http.delete(f"{node.url}/v1/outbox/{name}"), 404, "not_found")
        engine.gate.set()
        again = await node.post("/v1/chat/completions", body, idempotency_key="mine")
        assert content(again) == alone("hello", 5, 12, ignore_eos=True)


async def test_a_request_that_waited_for_too_long_goes_out_when_its_user_says_so(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine, heartbeat=0.2, outbox_age=0.5) as node:
        name = await node.leave("hello", "mine", **BODY)
        await _until(node, name, state="stale")
        said(await node.get(f"/v1/outbox/{name}", {"accept": "text/event-stream"}), 409, "outbox_stale")
        engine.gate.set()
        sent = await node.post(f"/v1/outbox/{name}", {})
        assert (sent.status_code, sent.json()["id"]) == (200, name)
        assert (await _until(node, name, state="done"))["text"] == alone("hello", 5, 12, ignore_eos=True)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ((Turn("user", "a\n"), Turn("assistant", "b")), "a"),
        ((1, 2, 3), "3 tokens"),
        ((Turn("system", "s"),), "1 tokens"),
        ("long " * 40, ("long " * 16).rstrip()),
        ("", ""),
    ],
)
def test_first_words_of_whatever_is_asked(prompt: Prompt, words: str) -> None:
    with closing(Journal(None)) as journal:
        body = TextRequest(spec=TextSpec(prompt=prompt)).pack()
        journal.accept(Entry(id="a", key="a", digest=b"d", path="mqtt", body=body, accepted=1e9))
        (view,) = listed(journal)
        text = shown(journal, "a")
    assert text is not None
    assert (view.prompt, text.prompt, text.text) == (words, words, "")


def test_a_request_of_a_newer_program_is_shown_for_what_it_is() -> None:
    with closing(Journal(None)) as journal:
        journal.accept(Entry(id="a", key="a", digest=b"d", path="p", body=b"\x02?", accepted=1e9))
        (view,) = listed(journal)
        text = shown(journal, "a")
    assert view.prompt == "(another version of this program wrote this request)"
    assert text is not None
    assert text.request == {}


def _flags(action: str = "list", name: str | None = None, *, as_json: bool = False) -> argparse.Namespace:
    return argparse.Namespace(action=action, id=name, json=as_json)


async def test_the_command_asks_the_node_that_runs(
    mosquitto: PrivateBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served(mosquitto, api_key="secret") as node:

        async def outbox(*flags: str, as_json: bool = False) -> str:
            settings = ApiSettings(api_port=node.port, api_key="secret")
            await asyncio.to_thread(run_outbox, _flags(*flags, as_json=as_json), settings, tmp_path / "none")
            return capsys.readouterr().out

        assert await outbox() == "the outbox is empty\n"
        http: httpx2.AsyncClient = node.http
        http.headers["authorization"] = "Bearer secret"
        await node.chat("hello\x1b there", {"idempotency_key": "mine"}, **BODY)
        head, row = (await outbox()).splitlines()
        assert head.split() == ["ID", "AGE", "MODE", "STATE", "TOKENS", "PROMPT"]
        name = row.split()[0]
        assert row.split(maxsplit=4)[2:4] == ["s", "hold"]
        assert row.endswith("12  hello\N{SYMBOL FOR ESCAPE} there")
        assert alone("hello\x1b there", 5, 12, ignore_eos=True) in await outbox("show", name[:6])
        assert json.loads(await outbox("show", name, as_json=True))["state"] == "done"
        with pytest.raises(UsageError, match="no request whose id"):
            await outbox("show", "other")
        assert await outbox("drop", name) == f"{name}: dropped\n"
        assert await outbox() == "the outbox is empty\n"


def test_the_command_reads_the_file_where_no_node_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--edge", "e1", "--state-dir", str(tmp_path), "--api-port", "1"]
    assert main(["outbox", *flags]) == 2
    assert "there is no outbox in" in capsys.readouterr().err
    body = TextRequest(spec=TextSpec(prompt="are we there yet?")).pack()
    with closing(Journal(tmp_path / "outbox" / "e1.sqlite")) as journal:
        for name in ("aaaa", "bbbb"):
            accepted, path = time.time() - 3 * 86_400.0, "/v1/chat/completions"
            journal.accept(Entry(id=name, key=name, digest=b"d", path=path, body=body, accepted=accepted))
        journal.park("bbbb", "it is old")
    assert main(["outbox", *flags]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:6] == ["3", "days", "hold", "queued", "0"]
    assert second.endswith("are we there yet?")
    for name in (
        "bb",
        "aa",
    ):  # what waits since long ago is old when the node starts, if nobody wants it still
        assert main(["outbox", "send", name, *flags, "--json"]) == 0
        sent = json.loads(capsys.readouterr().out)
        assert (sent["state"], sent["accepted"] > time.time() - 60.0) == ("queued", True)
    assert main(["outbox", "drop", "aa", *flags]) == 0
    capsys.readouterr()
    assert main(["outbox", "list", "--json", *flags]) == 0
    assert [view["id"] for view in json.loads(capsys.readouterr().out)["data"]] == ["bbbb"]
    assert main(["outbox", "show", *flags]) == 2
