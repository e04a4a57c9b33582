"""Clients that hold connections without asking for anything, over real sockets; ids and web pages."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx2
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.server import SPARE
from edge_node.api.settings import ApiSettings
from flexspec_mq.errors import UsageError
from tests.daemons import until
from tests.edge_node.api.served import Served, served

HALF = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: "
SLOW_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b"content-length: 100\r\n\r\n{"
)
CUT = 'flexspec_edge_requests_total{endpoint="other",status="408"}'
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
                port = int(api.url.rpartition(":")[2])
                peer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                peers.append(peer)
                peer[1].write(said)
            yield peers
        finally:
            for _, writer in peers:
                writer.transport.abort()


async def is_over(peer: Peer) -> None:
    """Wait until the server has ended a connection."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(peer[0].read(), 10) == b""


async def test_half_a_head_on_many_connections_keeps_nobody_out(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=2.0) as api:
        async with holding(api, 600, HALF) as peers:
            async with httpx2.AsyncClient(trust_env=False) as http:
                for path in ("/healthz", "/v1/models"):
                    assert (await http.get(f"{api.url}{path}")).status_code == 200
            assert (await api.chat(max_tokens=5)).status_code == 200
            await is_over(peers[0])  # the oldest ones made room
            await is_over(peers[-1])  # and the others had their time
        assert await api.metric(CUT) == 600
        assert (await api.chat(max_tokens=5)).status_code == 200


async def test_bytes_that_trickle_do_not_prolong_the_time_of_a_head(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=0.5) as api, holding(api, 1, HALF) as [(reader, writer)]:
        began = time.monotonic()
        while not reader.at_eof():
            writer.write(b"x")
            try:
                await asyncio.wait_for(reader.read(1), 0.05)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.4 < time.monotonic() - began < 5


async def test_the_next_head_of_a_connection_is_bounded_too(mosquitto: PrivateBroker) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    async with served(mosquitto, head_timeout=0.5) as api:
        async with holding(api, 1, whole + HALF) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert b"ok" in await asyncio.wait_for(reader.read(), 10)
        assert await api.metric(CUT) == 1
        async with holding(api, 1, whole) as [(reader, writer)]:
            for _ in range(4):  # a connection in use may be older than the bound
                await reader.readuntil(b'{"status":"ok"}')
                await asyncio.sleep(0.2)
                writer.write(whole)
            await reader.readuntil(b'{"status":"ok"}')
        assert await api.metric(CUT) == 1


async def test_a_client_that_says_nothing_is_let_go(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=0.2) as api, holding(api, 1, b"") as [peer]:
        await is_over(peer)
        assert await api.metric(CUT) == 0


async def test_an_answer_may_take_longer_than_a_head(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, head_timeout=0.1, body_timeout=0.6) as api:
        async with holding(api, 1, SLOW_BODY) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        assert await api.metric('flexspec_edge_requests_total{endpoint="/v1/completions",status="408"}') == 1


async def test_probes_answer_when_as_many_requests_as_may_be_are_under_way(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        most = api.api.settings.max_requests
        counted = 'flexspec_edge_requests_total{endpoint="/v1/models",status="503"}'
        async with holding(api, most, SLOW_BODY), httpx2.AsyncClient(trust_env=False) as http:
            await until(lambda: len(asyncio.all_tasks()) > most)
            for _ in range(3):
                for path in ("/healthz", "/readyz"):
                    assert (await http.get(f"{api.url}{path}")).status_code == 200
            refused = await http.get(f"{api.url}/v1/models")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            async with holding(api, SPARE + 5, SLOW_BODY):  # whoever comes now takes the spare ones
                pass
            assert (await http.get(f"{api.url}/healthz")).status_code == 200
        await until(lambda: len(asyncio.all_tasks()) < most)
        assert await api.metric(counted) == 1


async def test_what_is_no_http(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api, holding(api, 1, b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as [(reader, _)]:
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"x-request-id: req-" in head.lower()
        assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_every_answer_has_an_id(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_key="hush", api_cors_origins=("https://page.example",)) as api:
        preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
        asked: list[tuple[str, str, dict[str, str]]] = [
            ("GET", "/healthz", {}), ("GET", "/readyz", {}), ("GET", "/metrics", api.key), ("GET", "/v1/models", {}),
            ("GET", "/v1/models", api.key), ("GET", "/v1/nothing", api.key), ("GET", "/v1/completions", api.key),
            ("POST", "/v1/completions", api.key), ("OPTIONS", "/v1/completions", preflight),
            ("GET", "/healthz", {"host": "evil.example"}),
        ]  # fmt: skip
        ids = []
        for method, path, headers in asked:
            answer = await api.http.request(method, f"{api.url}{path}", headers=headers)
            ids.append(answer.headers["x-request-id"])
            own = {**headers, "x-request-id": "trace/7:a"}
            answer = await api.http.request(method, f"{api.url}{path}", headers=own)
            assert answer.headers.get_list("x-request-id") == ["trace/7:a"]
        assert len(set(ids)) == len(ids)
        for stream in (False, True):
            answer = await api.chat(max_tokens=3, stream=stream, headers=api.key)
            assert answer.headers["x-request-id"] in answer.text
            named = await api.chat(max_tokens=3, stream=stream, headers={**api.key, "x-request-id": "mine"})
            assert named.headers.get_list("x-request-id") == ["mine"]
        for odd in ("", "x" * 129, "a b", "caf\u00e9"):
            odd_id: Any = {"x-request-id": odd.encode("latin-1")}
            answer = await api.http.get(f"{api.url}/healthz", headers=odd_id)
            assert answer.headers["x-request-id"].startswith("req-")


async def test_a_web_page_may_use_it_only_where_it_is_named(mosquitto: PrivateBroker) -> None:
    page = {"origin": "https://page.example"}
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    async with served(mosquitto, api_cors_origins=("https://page.example",), api_key="hush") as api:
        url = f"{api.url}/v1/chat/completions"
        may = await api.http.options(url, headers={**page, **asks})
        assert may.status_code == 200
        assert may.headers["access-control-allow-origin"] == "https://page.example"
        assert "authorization" in may.headers["access-control-allow-headers"]
        other = await api.http.options(url, headers={**asks, "origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        for headers, status in (({**page, **api.key}, 200), (page, 401)):  # its script can read errors too
            answer = await api.chat(max_tokens=2, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    async with served(mosquitto) as api:
        closed = await api.http.options(f"{api.url}/v1/chat/completions", headers={**page, **asks})
        assert closed.status_code == 403
        assert "access-control-allow-origin" not in closed.headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_hosts": ("http://x",)}, {"api_hosts": ("x:80",)}, {"api_cors_origins": ("page.example",)},
        {"api_cors_origins": ("https://x/",)},
    ],
)  # fmt: skip
def test_names_and_origins_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ApiSettings(**wrong)
    known = ApiSettings(
        api_hosts=("Edge-1.lan", "fe80::1"), api_cors_origins=("*", "http://localhost:3000")
    ).for_serving()
    assert known.api_hosts == ("edge-1.lan", "fe80::1")
