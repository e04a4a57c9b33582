"""Requests with images and long texts, from the device's HTTP through Mosquitto, as blobs, to a server of models."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.launcher import PrivateBroker
from cloud_worker.engine.load import load_engine
from cloud_worker.engine.servers.chat import check_images, read_request
from cloud_worker.engine.servers.requests import FetchedRequests
from cloud_worker.settings import WorkerSettings
from edge_node.outbox.journal import Journal
from flexspec_mq.codec.blobs import decode_blob
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.errors import RemoteProtocolError, ServerRefused
from flexspec_mq.links import LinkProfile
from flexspec_mq.models.byte_text.packed import packed, unpacked
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from schemas.blobs import BlobPiece
from schemas.served import MAX_REQUEST, ImageUrl, ServedBlob, ServedMessage, ServedPart, ServedRequest
from tests.daemons import Daemon, until, worker_at
from tests.edge_node.api.served import Served, content, keyed, links_to, said, served
from tests.engine_server import EngineServer
from tests.keys.deployments_of_keys import KeyedDeployment
from tests.transport.reading import linked

PNG = b"\x89PNG\r\n\x1a\n"
ANSWER = "a cat"


class SeeingServer(EngineServer):
    """A server that reads images, by its own word as llama-server gives it, and answers the same to all.

    Attributes:
        vision: whether it says that it does.
    """

    owner = "llamacpp"
    vision = True

    def _app(self) -> Any:
        app = super()._app()
        app.routes.insert(0, Route("/props", lambda _: JSONResponse({"modalities": {"vision": self.vision}})))
        return app

    def _chat(self, body: dict[str, Any]) -> Response:
        self._asks(body)
        delta = {"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        return self._stream(iter([delta, usage]))


@pytest.fixture
def server(tiny: Path) -> Iterator[SeeingServer]:
    with SeeingServer(tiny) as server:
        yield server


@asynccontextmanager
async def site(
    mosquitto: PrivateBroker, server: EngineServer, version: str, **more: Any
) -> AsyncIterator[Served]:
    """A device, and a worker beside the server."""
    settings = WorkerSettings(worker="w1", version=version, engine="openai", engine_url=server.url)
    engine: Any = await asyncio.to_thread(load_engine, settings, lambda _: None)
    async with served(mosquitto, engine=engine, version=version, **more) as api:
        yield api


def image(size: int) -> str:
    """A data: URL of an image of so many bytes."""
    return "data:image/png;base64," + base64.b64encode(PNG + os.urandom(size - len(PNG))).decode()


def shows(*parts: str) -> dict[str, Any]:
    """A chat of one message: images and texts."""
    told = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith(("data:", "http"))
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"messages": [{"role": "user", "content": told}], "max_tokens": 9}


@asynccontextmanager
async def worker(
    mosquitto: PrivateBroker, server: EngineServer, name: str, version: str, **more: Any
) -> AsyncIterator[Daemon]:
    settings = WorkerSettings(worker=name, version=version, engine="openai", engine_url=server.url)
    engine: Any = await asyncio.to_thread(load_engine, settings, lambda _: None)
    async with worker_at(links_to(mosquitto), name, engine, version=version, **more) as daemon:
        yield daemon


@asynccontextmanager
async def slow_link(mosquitto: PrivateBroker) -> AsyncIterator[int]:
    """A port where a link of half a megabit a second begins."""
    async with Proxy.steady(LinkProfile(20.0, 0.5, 0.5), ("127.0.0.1", mosquitto.port)).listening() as proxy:
        yield proxy.port


async def fetches(api: Served, bytes_: int = 40_000) -> int:
    """Wait until some of a text's request is on its way; bytes of it."""
    await until(lambda: any(each.fetched > bytes_ for each in api.node._sessions.values()))
    return max(each.fetched for each in api.node._sessions.values())


async def test_an_image_of_two_megabytes_and_a_text_of_one_arrive_bit_for_bit(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    async with site(mosquitto, server, "sees") as api:
        asked = shows("what is", image(2_000_000), "this, and", image(100), "that?")
        answer = await api.post("/v1/chat/completions", asked)
        assert content(answer) == ANSWER
        assert server.asked[-1]["messages"] == asked["messages"]
        long = {"messages": [{"role": "user", "content": os.urandom(500_000).hex()}], "max_tokens": 9}
        assert content(await api.post("/v1/chat/completions", long)) == ANSWER
        assert server.asked[-1]["messages"] == long["messages"]


async def test_images_of_all_apis_arrive_in_their_places(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    one, two = image(100), image(90_000)
    async with site(mosquitto, server, "apis") as api:
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": two}]
        answer = await api.post("/v1/responses", {"input": [{"role": "user", "content": parts}]})
        assert answer.json()["output"][0]["content"][0]["text"] == ANSWER
        assert server.asked[-1]["messages"] == shows("a", two)["messages"]
        more = {"input": "and now?", "previous_response_id": answer.json()["id"]}
        assert (await api.post("/v1/responses", more)).status_code == 200
        assert server.asked[-1]["messages"][0] == shows("a", two)["messages"][0]
        files = [each.partition(",")[2] for each in (one, two)]
        asked = {"model": "apis", "stream": False}
        message = {"role": "user", "content": "a", "images": files}
        answer = await api.post("/api/chat", {**asked, "messages": [message]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"]["content"] == ANSWER
        assert server.asked[-1]["messages"] == shows(one, two, "a")["messages"]
        answer = await api.post("/api/generate", {**asked, "prompt": "a", "images": files})
        assert answer.json()["response"] == ANSWER
        assert server.asked[-1]["messages"] == shows(one, two, "a")["messages"]


async def test_images_that_nobody_takes_are_refused_in_words(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    async with site(mosquitto, server, "refuses") as api:
        for parts, words in (
            ((image(3_200_000),), "413"),
            (17 * (image(100),), "takes 16"),
            (("http://10.0.0.1/admin.png",), "no data: URL"),
        ):
            answer = await api.post("/v1/chat/completions", shows(*parts))
            assert words in answer.text or answer.status_code == int(words), answer.text
        assert not server.asked
    server.vision = False
    server.kill()
    server.start()
    async with site(mosquitto, server, "blind") as api:
        error = said(await api.post("/v1/chat/completions", shows("a", image(100))), 400, "invalid_value")
        assert "turn 1 has an image, and the server behind this version reads none" in error["message"]
    async with served(mosquitto) as api:
        error = said(await api.post("/v1/chat/completions", shows("a", image(100))), 400, "invalid_value")
        assert "reads text and no images" in error["message"]


async def test_a_device_that_was_restarted_gives_the_rest(
    mosquitto: PrivateBroker, server: SeeingServer, tmp_path: Path
) -> None:
    """With keys, too: its prompt names the same blob as before, of which its worker has the beginning."""
    keys = KeyedDeployment(tmp_path)
    more: dict[str, Any] = {"workers": 0, "version": "restarted", "grace": 0.2}
    edge = {"edge": "phone", "keys": keys.edge_file("phone")}
    asked = {**shows("what is", image(200_000)), "model": "restarted"}
    pieces: dict[tuple[str, int], bytes] = {}

    async def watch() -> None:
        watching = LinkSettings(port=mosquitto.port, client_id="spy", subscriptions=(Subscription("f1/b/#"),))
        async with linked(watching) as link:
            async for event in link.events():
                if isinstance(event, Inbound) and event.topic == "f1/b/eye/phone":
                    piece = decode_blob(event.payload, BlobPiece)
                    pieces[piece.name, piece.begin] = piece.data

    async with (
        worker(mosquitto, server, "eye", "restarted", keys=keys.worker_file("eye")),
        slow_link(mosquitto) as port,
    ):
        spy = asyncio.create_task(watch())
        async with served(
            mosquitto, edge=edge, journal=Journal(tmp_path / "outbox"), through=port, **more
        ) as api:
            asking = asyncio.create_task(api.post("/v1/chat/completions", asked, **keyed("k")))
            await fetches(api)
            asking.cancel()
        assert not server.asked
        async with served(mosquitto, edge=edge, journal=Journal(tmp_path / "outbox"), **more) as api:
            assert content(await api.post("/v1/chat/completions", asked, **keyed("k"))) == ANSWER
        spy.cancel()
    assert [each["messages"] for each in server.asked] == [asked["messages"]]
    assert len({name for name, _ in pieces}) == 1, "the blob is the same"
    data = b"".join(pieces[place] for place in sorted(pieces))
    assert not data.startswith(b"\x28\xb5\x2f\xfd"), "sealed, and no frame that anybody can read"
    assert 200_000 < len(data) < 205_000, "as long as the image itself"


async def test_another_worker_fetches_it_when_the_first_one_dies(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    more: dict[str, Any] = {"workers": 0, "version": "dies"}
    async with (
        slow_link(mosquitto) as port,
        worker(mosquitto, server, "one", "dies") as one,
        served(mosquitto, through=port, **more) as api,
    ):
        asked = shows("what is", image(150_000))
        asking = asyncio.create_task(api.post("/v1/chat/completions", asked))
        await fetches(api)
        async with worker(mosquitto, server, "two", "dies"):
            one.run.cancel()
            assert content(await asking) == ANSWER
    assert [each["messages"] for each in server.asked] == [asked["messages"]]


async def test_a_fetch_holds_up_no_other_text_and_its_user_is_told(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    more: dict[str, Any] = {"workers": 0, "version": "waits"}
    async with (
        slow_link(mosquitto) as port,
        worker(mosquitto, server, "busy", "waits") as daemon,
        served(mosquitto, through=port, edge={"edge": "far"}, **more) as far,
        served(mosquitto, edge={"edge": "near"}, **more) as near,
    ):
        asked = {
            **shows("what is", image(400_000)),
            "stream": True,
            "stream_options": {"include_origin": True},
        }
        asking = asyncio.create_task(far.post("/v1/chat/completions", asked))
        await fetches(far)
        assert content(await near.chat("hi")) == ANSWER
        assert not asking.done()
        shown = (await asking).text
        assert ANSWER in shown
        assert "a worker of waits, which fetches the request of 0.4 MB" in shown
        requests: Any = daemon.engine.requests
        assert not requests._fetches
        await until(lambda: not requests._held.total())
        assert not far.node.requests._blobs


def test_whatever_a_device_sends_is_refused_in_words() -> None:
    for parts in (
        (ServedPart("image_url", image_url=ImageUrl("http://10.0.0.1/admin")),),
        (ServedPart("image_url", image_url=ImageUrl("data:text/html;base64,AAAA")),),
        (ServedPart("image_url", image_url=ImageUrl(image(100) + "\n")),),
    ):
        request = ServedRequest(messages=(ServedMessage("user", parts),))
        with pytest.raises(ServerRefused, match="cannot be read"):
            read_request(msgspec.json.encode(request))
    seen = ServedPart("image_url", image_url=ImageUrl(image(100)))
    large = ServedPart("image_url", image_url=ImageUrl(image(6_000_001)))
    cases: tuple[tuple[tuple[ServedPart, ...], bool, str], ...] = (
        ((seen,), False, "reads no images"), (17 * (seen,), True, "17 images"), ((large,), True, "6000001 bytes"),
    )  # fmt: skip
    for shown, reads, words in cases:
        with pytest.raises(ServerRefused, match=words):
            check_images(ServedRequest(messages=(ServedMessage("user", shown),)), reads=reads)
    blob = ServedBlob(name=32 * "0", size=9, length=9)
    with pytest.raises(ServerRefused, match="not one of"):
        read_request(msgspec.json.encode(ServedRequest(prompt="a", blob=blob)))
    with pytest.raises(ServerRefused, match="cannot be read"):
        read_request(b'{"blob":{"name":"%s","size":9,"length":%d}}' % (32 * b"0", MAX_REQUEST + 1))


@given(st.binary(max_size=400), st.binary(max_size=3), st.sampled_from([b"", bytes(32), bytes(range(32))]))
def test_a_request_comes_out_of_its_blob_or_nothing_does(request: bytes, noise: bytes, secret: bytes) -> None:
    made = packed(request + b" ", secret)
    assert packed(request + b" ", secret) == made, "after a restart, too"
    (blob,) = (read_request(made.prompt).blob,)
    assert blob is not None
    assert unpacked(blob, made.data) == request + b" "
    assert bool(blob.key) == bool(secret)
    if secret:
        assert packed(request + b" ", bytes(reversed(secret))).name != made.name or secret == bytes(32)
    for wrong, data in (
        (blob, made.data + noise), (blob, noise), (msgspec.structs.replace(blob, length=blob.length + 1), made.data),
        (msgspec.structs.replace(blob, key=bytes(31)), made.data),
    ):  # fmt: skip
        if data != made.data or wrong != blob:
            with pytest.raises(RemoteProtocolError):
                unpacked(wrong, data)


async def test_a_worker_holds_no_more_than_its_bounds() -> None:
    """A third request of one device waits for one of its others; another device's does not."""
    requests: Any = FetchedRequests()
    fetched = asyncio.Event()

    async def fetch(_link: Any, _edge: str, _blob: ServedBlob) -> bytes:
        await fetched.wait()
        return made.data

    made = packed(b"x" * (MAX_REQUEST // 2), b"")
    blob = read_request(made.prompt).blob
    assert blob is not None
    big = msgspec.structs.replace(blob, size=MAX_REQUEST // 2)
    requests._link, requests._fetch = object(), fetch
    requests._loop = asyncio.get_running_loop()
    order = list[str]()

    async def hold(edge: str, name: str) -> None:
        async with requests.held(edge, big):
            order.append(name)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for name in ("a1", "a2", "a3", "b1"):
            group.create_task(hold(name[0], name))
        await asyncio.sleep(0.05)
        assert requests._held == {"a": 2 * MAX_REQUEST, "b": MAX_REQUEST}
        fetched.set()
    assert sorted(order[:3]) == ["a1", "a2", "b1"]
    assert requests._held.total() == 0
