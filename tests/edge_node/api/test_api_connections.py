"""Connections and bodies that are slow, long or many, over real sockets; and an id on every answer."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self, cast

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.http.connections import ApiConnections
from edge_node.api.server import SPARE
from flexspec_mq.daemon.tasks import running
from tests.daemons import until
from tests.edge_node.api.served import Served, never, said, served
from tests.edge_node.api.test_api_refusals import lines, refused

HALF = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: "
SLOW_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer hush\r\n"
    b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n" + b" " * 800
)
BEYOND: dict[str, Any] = {"api_host": "0.0.0.0", "api_key": "hush", "api_insecure_anywhere": True}  # noqa: S104
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextmanager
def many_files() -> Iterator[None]:
    """Room for both ends of some hundred connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def holding(
    api: Served, count: int, said: bytes, address: str = "127.0.0.1"
) -> AsyncIterator[list[Peer]]:
    """Connections from an address on which clients have said this, and nothing more."""
    peers: list[Peer] = []
    with many_files():
        try:
            for _ in range(count):
                peer = await asyncio.open_connection("127.0.0.1", api.port, local_addr=(address, 0))
                peers.append(peer)
                peer[1].write(said)
            yield peers
        finally:
            for _, writer in peers:
                writer.transport.abort()


async def is_over(peer: Peer) -> None:
    """Wait until the server has ended a connection."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(peer[0].read(), 60) == b""


async def test_half_a_head_on_many_connections_keeps_nobody_out(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=300.0) as api:
        async with holding(api, 600, HALF) as peers:
            async with httpx2.AsyncClient(trust_env=False) as http:
                for path in ("/healthz", "/v1/models"):
                    assert (await http.get(f"{api.url}{path}")).status_code == 200
            assert (await api.chat(max_tokens=5)).status_code == 200
            await is_over(peers[0])  # the oldest ones made room
            assert not peers[-1][0].at_eof()
        assert 600 - api.api.settings.max_requests - SPARE <= await api.answers(408, "other") < 100
        assert (await api.chat(max_tokens=5)).status_code == 200


async def test_a_client_that_says_nothing_or_trickles_is_let_go(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=0.5) as api:
        async with holding(api, 1, b"") as [peer]:
            await is_over(peer)
        assert await api.answers(408, "other") == 0
        async with holding(api, 1, HALF) as [(reader, writer)]:
            began = time.monotonic()
            while not reader.at_eof():  # bytes do not prolong the time of a head, or it has no end
                writer.write(b"x")
                try:
                    await asyncio.wait_for(reader.read(1), 0.05)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            assert time.monotonic() - began > 0.4


async def test_the_next_head_of_a_connection_is_bounded_too(mosquitto: PrivateBroker) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    async with served(mosquitto, head_timeout=2.0) as api:
        async with holding(api, 1, whole + HALF) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert b"ok" in await asyncio.wait_for(reader.read(), 60)
        assert await api.answers(408, "other") == 1
        async with holding(api, 1, whole) as [(reader, writer)]:
            for _ in range(4):  # a connection in use may be older than the bound
                await reader.readuntil(b'{"status":"ok"}')
                await asyncio.sleep(0.6)
                writer.write(whole)
            await reader.readuntil(b'{"status":"ok"}')
        assert await api.answers(408, "other") == 1


async def test_probes_answer_when_as_many_requests_as_may_be_are_under_way(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        most = api.api.settings.max_requests
        async with holding(api, most, SLOW_BODY), httpx2.AsyncClient(trust_env=False) as http:
            await until(lambda: api.api.bodies.held == 800 * most)
            unread: Any = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
            async with running(api.app(unread, never, lambda _: never()), "does not read its refusal"):
                await asyncio.sleep(0)
                for path in ("/healthz", "/readyz"):
                    assert (await http.get(f"{api.url}{path}")).status_code == 200
            refused_one = await http.get(f"{api.url}/v1/models")
            assert said(refused_one, 503, "overloaded")["type"] == "server_error"
            assert refused_one.headers["retry-after"] == "1"
            async with holding(api, SPARE + 5, SLOW_BODY):  # whoever comes now takes the spare ones
                pass
            assert (await http.get(f"{api.url}/healthz")).status_code == 200
        await until(lambda: api.api.bodies.held == 0)
        assert await api.answers(503, "/v1/models") == 2


async def test_what_is_no_http(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, holding(api, 1, b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as [(reader, _)]:
        head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"x-request-id: req-" in head.lower()
        assert b"x-content-type-options: nosniff" in head.lower()
        assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_every_answer_has_an_id_and_is_taken_for_no_other_type(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_key="hush", api_cors_origins=("https://page.example",)) as api:
        preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
        asked: list[tuple[str, str, dict[str, str]]] = [
            ("GET", "/healthz", {}), ("GET", "/readyz", {}), ("GET", "/metrics", api.key), ("GET", "/v1/models", {}),
            ("GET", "/v1/models", api.key), ("GET", "/v1/nothing", api.key), ("GET", "/v1/completions", api.key),
            ("POST", "/v1/completions", api.key), ("OPTIONS", "/v1/completions", preflight),
            ("GET", "/healthz", {"host": "evil.example"}), ("GET", "/", {}), ("GET", "/page/page.css", {}),
            ("GET", "/api/embed", api.key),
        ]  # fmt: skip
        ids = []
        for method, path, headers in asked:
            answer = await api.http.request(method, f"{api.url}{path}", headers=headers)
            ids.append(answer.headers["x-request-id"])
            own = {**headers, "x-request-id": "trace/7:a"}
            answer = await api.http.request(method, f"{api.url}{path}", headers=own)
            assert answer.headers.get_list("x-request-id") == ["trace/7:a"]
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert len(set(ids)) == len(ids)
        for stream in (False, True):
            answer = await api.chat(max_tokens=3, stream=stream, headers=api.key)
            assert answer.headers["x-request-id"] in answer.text
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            named = await api.chat(max_tokens=3, stream=stream, headers={**api.key, "x-request-id": "mine"})
            assert named.headers.get_list("x-request-id") == ["mine"]
        answer = await api.post("/v1/responses", {"input": "x", "max_output_tokens": 3}, **api.key)
        assert answer.headers["x-request-id"] == answer.json()["id"]
        for odd in ("", "x" * 129, "a b", "caf\u00e9"):
            odd_id: Any = {"x-request-id": odd.encode("latin-1")}
            answer = await api.http.get(f"{api.url}/healthz", headers=odd_id)
            assert answer.headers["x-request-id"].startswith("req-")


async def test_one_address_cannot_take_the_connections_of_others(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(mosquitto, **BEYOND, api_client_connections=5) as api,
        holding(api, 5, SLOW_BODY, "127.0.0.9") as busy,
    ):
        await until(lambda: api.api.bodies.held == 5 * 800)
        for _ in range(3):
            async with holding(api, 1, SLOW_BODY, "127.0.0.9") as [peer]:
                await is_over(peer)
        assert (await api.get("/v1/models", api.key)).status_code == 200
        assert await refused(api, "too_many_connections") == 3
        assert not any(reader.at_eof() for reader, _ in busy)
    assert lines(caplog, "too_many_connections")[0].startswith("client 127.0.0.9 was refused")


@dataclass(eq=False)
class Come:
    """A connection that has come, as far as room for others concerns it."""

    known: ApiConnections
    there: set[Any]
    address: str = "a"
    closing: bool = False

    def is_closing(self) -> bool:
        return self.closing

    def cut(self) -> None:
        self.there.discard(self)
        self.known.waiting.pop(cast("Any", self), None)

    @property
    def transport(self) -> Self:
        return self


def test_those_that_wait_for_a_request_make_room_and_then_those_that_do_not_take_their_answers() -> None:
    known = ApiConnections(most=5, most_of_one=3, head_timeout=1.0, on_cut=lambda *_: None)
    there = set[Any]()

    def room(address: str, *, waits: bool) -> bool:
        there.add(new := Come(known, there, address))
        known.waiting |= {cast("Any", new): None} if waits else {}
        if not (has := known.make_room(there, cast("Any", new))):
            new.cut()
        return has

    def addresses() -> str:
        return "".join(sorted(each.address for each in there))

    assert [room(address, waits=True) for address in "baaaa"] == [True] * 5
    assert addresses() == "aaab"  # the oldest of its own address
    assert [room(address, waits=False) for address in "cded"] == [True] * 4
    assert addresses() == "acdde"  # the oldest of all
    assert [room("a", waits=False) for _ in range(2)] == [True, False]  # nobody waits any more
    next(each for each in there if each.address == "e").closing = True
    assert room("d", waits=False)
    assert not room("d", waits=False)  # though another one ends
    assert addresses() == "acddd"


async def test_on_loopback_all_have_one_address_and_the_bound_of_all_is_theirs(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, api_client_connections=2, grace=0.1) as api, holding(api, 20, SLOW_BODY):
        assert (await api.get("/v1/models")).status_code == 200
        api.run.cancel()  # which waits for none of them
        assert (await asyncio.wait([api.run], timeout=20.0))[0]


async def endless() -> AsyncIterator[bytes]:
    """A body without a stated length."""
    yield b'{"prompt": "'
    for _ in range(1000):
        yield b"x" * 1000


async def test_a_body_that_is_too_long_or_too_slow_is_told(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take longer than a head."""
    async with served(mosquitto, max_body=500, body_timeout=1.2, head_timeout=0.8) as api:
        async with holding(api, 1, SLOW_BODY.replace(b": 1000", b": 2000").rstrip(b" ")) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        async with holding(api, 1, SLOW_BODY.replace(b": 1000", b": 400")[:200]) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        headers = {"content-type": "application/json"}
        answer = await api.http.post(f"{api.url}/v1/completions", content=endless(), headers=headers)
        said(answer, 413, "body_too_long")
        assert await refused(api, "body_too_long") == 2
        assert await refused(api, "body_timeout") == 1
        assert await api.answers(408, "/v1/completions") == 1
        assert api.api.bodies.held == 0
    assert lines(caplog, "body_too_long")
    assert lines(caplog, "body_timeout")
