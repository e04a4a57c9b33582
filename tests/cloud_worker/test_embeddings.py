"""Vectors of a server's, from the device's HTTP through Mosquitto to the server and back."""

from __future__ import annotations

import asyncio
import struct
import threading
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from broker.launcher import PrivateBroker
from cloud_worker.engine.servers import chat
from flexspec_mq.models.byte_text.vectors import bytes_of, decode_vectors, encode_vectors, numbers
from tests.cloud_worker.test_chat_server import _some, connected, site
from tests.daemons import worker_at
from tests.edge_node.api.served import Served, events, keyed, links_to, said, served
from tests.engine_server import EngineServer

TEXTS = ["hello", "a second text", "Grüße, 世界"]


@pytest.fixture
def server(tiny: Path) -> Iterator[EngineServer]:
    with EngineServer(tiny, name="org/tiny:1b") as server:
        yield server


async def made(api: Served, texts: list[str] = TEXTS, **more: Any) -> list[list[float]]:
    answer = await api.post("/v1/embeddings", {"input": texts, **more})
    assert answer.status_code == 200, answer.text
    return [each["embedding"] for each in answer.json()["data"]]


async def test_vectors_are_the_servers_own_by_each_api(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    alone = await asyncio.to_thread(server.vectors, *TEXTS)
    async with site(mosquitto, server, "own") as api:
        asked = {"model": "tiny-1b", "input": TEXTS}
        answer = (await api.post("/v1/embeddings", asked)).json()
        assert [each["embedding"] for each in answer["data"]] == alone
        assert [each["index"] for each in answer["data"]] == [0, 1, 2]
        usage = answer["usage"]
        assert (answer["model"], usage["completion_tokens"]) == ("tiny-1b", 0)
        assert usage["total_tokens"] == usage["prompt_tokens"] > len(TEXTS)
        answer = (await api.post("/v1/embeddings", {**asked, "encoding_format": "base64"})).json()
        packed = [b64decode(each["embedding"]) for each in answer["data"]]
        assert packed == [struct.pack(f"<{len(each)}f", *each) for each in alone]
        one = await api.client.embeddings.create(model="own", input=TEXTS[0], dimensions=7)
        assert one.data[0].embedding == alone[0][:7]
        async with ollama.AsyncClient(api.url, trust_env=False) as client:
            embedded = await client.embed("own", TEXTS)
            assert [[*each] for each in embedded.embeddings] == alone
            assert embedded.prompt_eval_count == usage["prompt_tokens"]
            assert embedded.total_duration
            assert [*(await client.embeddings("own", TEXTS[1])).embedding] == alone[1]
            assert (await client.embed("own", "")).embeddings == []


async def test_they_wait_for_a_server_that_is_away_and_are_asked_for_once_by_a_key(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    alone = await asyncio.to_thread(server.vectors, *TEXTS)
    async with site(mosquitto, server, "away") as api:
        await asyncio.to_thread(server.kill)
        waiting = asyncio.create_task(made(api, wait=60))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        server.start()
        assert await waiting == alone
        for more in ({}, {"offline": "deliver"}, {"offline": "provisional"}):
            key, asked = keyed(f"key {more}"), {"input": TEXTS, **more}
            answers = [await api.http.post(f"{api.url}/v1/embeddings", json=asked, headers=key) for _ in "ab"]
            assert answers[0].json() == answers[1].json()
            assert [each["embedding"] for each in answers[1].json()["data"]] == alone
        assert len(server.asked) == 1 + 1 + 3
        kept = f"{api.url}/v1/outbox/{answers[0].headers['x-flexspec-outbox']}"
        assert (await api.http.get(kept)).json()["prompt"] == " ".join(TEXTS)
        (told,) = events((await api.http.get(kept, headers={"accept": "text/event-stream"})).text)
        assert [each["embedding"] for each in told["data"]] == alone


@pytest.mark.parametrize("other", [0.0, 1.0])
async def test_they_outlive_their_worker(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch, other: float
) -> None:
    """A server may tell other numbers by now: they are those of one answer, and no half of the first is in it."""
    texts, version = [f"text {number}" for number in range(50)], f"outlives-{other:g}"
    async with site(mosquitto, server, version) as api:
        asked = asyncio.create_task(made(api, texts, wait=60))
        await _some(api)
        await api.daemons[0].kill()
        (text,) = api.node._sessions.values()
        assert 8 < text.machine.committed_length < 70_000, "in the middle"
        told = server._read
        monkeypatch.setattr(server, "_read", lambda asked: (told(asked)[0], told(asked)[1] + other))
        engine: Any = await asyncio.to_thread(connected, server, version)
        async with worker_at(links_to(mosquitto), "second", engine, version=version):
            assert await asked == await asyncio.to_thread(server.vectors, *texts)
        assert len(server.asked) == 3


async def test_they_count_for_the_budget_of_a_day(mosquitto: PrivateBroker, server: EngineServer) -> None:
    engine: Any = await asyncio.to_thread(connected, server, "paid", tokens_per_day=50)
    async with served(mosquitto, engine=engine, version="paid") as api:
        for _ in range(50):
            refused = await api.post("/v1/embeddings", {"input": TEXTS})
            if refused.status_code != 200:
                break
        assert "00:00 UTC" in said(refused, 502, "server_refused")["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert 1 < len(server.asked) < 50


async def test_what_does_not_fit_is_refused_with_how_much_does(
    mosquitto: PrivateBroker, server: EngineServer
) -> None:
    texts = [f"text {number}" for number in range(100)]
    async with site(mosquitto, server, "fits") as api:
        error = said(await api.post("/v1/embeddings", {"input": texts}), 502, "server_refused")
        most = int(error["message"].partition("ask for ")[2].split()[0])
        assert len(await made(api, texts[:most])) == most > 70
        asked = len(server.asked)
        error = said(
            await api.post("/v1/embeddings", {"input": texts, "dimensions": 4096}),
            400,
            "context_length_exceeded",
        )
        assert (error["param"], "fewer texts" in error["message"]) == ("input", True)
        for wrong in ([1, 2], [[1, 2], [3]], []):
            error = said(await api.post("/v1/embeddings", {"input": wrong}), 400, "invalid_value")
            assert error["param"] == "input"
        assert len(server.asked) == asked


def _told(*vectors: Any, indices: tuple[int, ...] = (0, 1, 2)) -> Callable[[], Response]:
    data = [{"index": at, "embedding": each} for at, each in zip(indices, vectors, strict=False)]
    return lambda: Response(str({"data": data}).replace("'", '"').replace("nan", "NaN"))


async def _long() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b'{"data":[' + 10**6 * b" "


ONE = [0.5, 1.0]
LIES = {
    "tells 2 vectors of 3": _told(ONE, ONE),
    "tells 3 vectors of 3": _told(ONE, ONE, ONE, indices=(0, 1, 1)),
    "several lengths": _told(ONE, ONE, [0.5]),
    "or of none": _told([], [], []),
    "beyond 32 bits": _told(ONE, [1e39, 0.0], ONE),
    "Expected `array`": _told(ONE, 7, ONE),
    "Expected `float`": _told(ONE, [ONE, ONE], ONE),
    "answers what it should not": _told(ONE, [float("nan"), 0.0], ONE),
    "answers with more than": lambda: StreamingResponse(_long()),
    "redirects are not followed": lambda: RedirectResponse("http://127.0.0.1:9/"),
    "Start it with `--embeddings`": lambda: JSONResponse(
        {"error": "This server does not support embeddings. Start it with `--embeddings`"}, 501
    ),
    "increase the physical batch size": lambda: JSONResponse(
        {"error": "input is too large to process. increase the physical batch size"}, 500
    ),
    "the key … is wrong": lambda: JSONResponse({"error": "the key hush is wrong"}, 401),
}


async def test_whatever_a_server_tells_a_request_fails_in_words(
    mosquitto: PrivateBroker, server: EngineServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (key := tmp_path / "key").write_text("hush\n")
    engine: Any = await asyncio.to_thread(connected, server, "lies", engine_key_file=key)
    answers: list[Callable[[], Response] | None] = [None]
    told, asked = EngineServer._embeddings, threading.Semaphore(0)

    def lies(self: EngineServer, body: dict[str, Any]) -> Response:
        asked.release()
        return told(self, body) if (lie := answers[0]) is None else lie()

    monkeypatch.setattr(EngineServer, "_embeddings", lies)
    await asyncio.to_thread(server.kill)
    server.start()  # with a route that lies
    async with served(mosquitto, engine=engine, version="lies") as api:
        for words, answers[0] in LIES.items():
            error = said(await api.post("/v1/embeddings", {"input": TEXTS}), 502, "server_refused")
            assert words in error["message"]
        assert asked._value == len(LIES) + 1, "what failed by 500 is asked for again, once"
        answers[0] = None
        await made(api)
        monkeypatch.setattr(chat, "embedded", _half)
        error = said(await api.post("/v1/embeddings", {"input": TEXTS}), 502, "worker_protocol")
        assert "no vectors of these texts" in error["message"]
        monkeypatch.undo()
        refused = await api.post("/v1/embeddings", {"input": TEXTS, "dimensions": 10**4})
        said(refused, 400, "context_length_exceeded")
        error = said(
            await api.post("/v1/embeddings", {"input": "a", "dimensions": 4096}), 502, "server_refused"
        )
        assert "whatever `dimensions` says" in error["message"]


async def _half(*_: Any) -> tuple[bytes, int]:
    """As of a worker that is somebody else's."""
    return b'["AAAA","AA', 1


@given(st.integers(1, 9).flatmap(lambda size: st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=size, max_size=size), min_size=1
)))  # fmt: skip
def test_numbers_of_32_bits_come_as_they_are(vectors: list[list[float]]) -> None:
    line = encode_vectors(vectors)
    assert len(line) == bytes_of(len(vectors), len(vectors[0]))
    for before in ("", '["AAA\n', "\n\n"):
        told = decode_vectors(before + line.decode(), len(vectors))
        assert [[*numbers(vector)] for vector in told] == vectors


@pytest.mark.parametrize(
    "content",
    ["", "[]", '["AAAAAA=="', '["AAAAAA==","AAAA"]', '["AAAA","AAAA"]', '["",""]', '["AACAfw==","AACAfw=="]',
     "[1,2]", '{"a":1}', '["AAAAAA==","AAAAAA=="]\n', '["\ud800","AAAA"]'],
)  # fmt: skip
def test_other_contents_are_no_vectors(content: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_vectors(content, 2)
