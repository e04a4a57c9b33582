"""Requests over HTTP to somebody else's server, which may send anything, at any length and pace."""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec

from flexspec_mq import entropy, waiting
from flexspec_mq.errors import FlexSpecError, ServerRefused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

T = TypeVar("T")
MOST_SAID = 300
"""Characters of what a server says that our errors repeat."""
MOST_STREAM, _MOST_LINE = 64_000_000, 1_000_000
"""Bytes of a stream, and of one event in it."""
_MOST_DOCUMENT = 8_000_000
"""Bytes of any other answer. The longest that is owed, 513 rows of 256 tokens, has 5 million; read as objects, bytes
become up to thirty times as many."""
_LEAST_PIECE = 64
"""Bytes that a piece counts for at least: reading it takes time."""
_DATA = re.compile(rb"^data:(.*)", re.MULTILINE)


class ServerGone(FlexSpecError):
    """The server cannot be reached, or failed: it may do when asked again."""


class ServerFailed(ServerGone):
    """The server is there, and failed at this request."""


class ServerBusy(ServerGone):
    """The server takes no more for now; `seconds` later it may."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(f"{message}; asked again in {seconds:.0f} s")
        self.seconds = seconds


class ServerClient:
    """A client of one server. All requests raise `ServerGone` and `ServerRefused`, and nothing else.

    Args:
        url: address, without a path.
        key: bearer token; None without one. It is in no error of ours, whatever the server repeats.
        headers: further headers of each request.
    """

    def __init__(self, url: str, key: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self._secrets = [secret for secret in (key, *(headers or {}).values()) if secret]
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        # The environment's proxies are for the web; this server is on loopback, or behind an address of its own.
        # Servers of models drop connections that nobody uses after five seconds.
        limits = httpx2.Limits(keepalive_expiry=0.8 * waiting.CONNECT)
        self._http = httpx2.AsyncClient(
            headers={"accept-encoding": "identity"}
            | ({} if key is None else {"authorization": f"Bearer {key}"})
            | dict(headers or {}),
            timeout=httpx2.Timeout(None, connect=waiting.CONNECT),
            limits=limits,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        """Ask for JSON; without a body by GET."""
        return self._read(await self._whole(path, body), kind)

    async def events(self, path: str, kind: type[T], body: Mapping[str, Any]) -> AsyncGenerator[T]:
        """Ask for a stream of JSON events, which ends by ``[DONE]``."""
        async with self._answer(path, body, MOST_STREAM) as pieces:
            rest = bytearray()
            async for piece in pieces:
                rest += piece
                if len(rest) > _MOST_LINE:
                    raise ServerRefused(f"{self.url} sends a line of more than {_MOST_LINE} bytes")
                if b"\n" not in piece:
                    continue
                lines, _, rest = rest.rpartition(b"\n")
                for line in _DATA.finditer(lines):
                    if (event := line[1].strip()) == b"[DONE]":
                        return
                    if event:
                        yield self._read(event, kind)
        raise ServerGone(f"{self.url} ended a stream in the middle")

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(waiting.PATIENCE):
                yield
        except TimeoutError as error:
            raise ServerGone(f"{self.url} owes an answer for {waiting.PATIENCE:g} s") from error

    async def _whole(self, path: str, body: Mapping[str, Any] | None) -> bytes:
        async with self._patience(), self._answer(path, body, _MOST_DOCUMENT) as pieces:
            return b"".join([piece async for piece in pieces])

    @asynccontextmanager
    async def _answer(
        self, path: str, body: Mapping[str, Any] | None, most: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pieces of an answer, of so many bytes at most."""
        content = None if body is None else msgspec.json.encode(body)
        method, headers = ("GET", {}) if body is None else ("POST", {"content-type": "application/json"})
        try:
            async with self._http.stream(method, self.url + path, content=content, headers=headers) as answer:
                status, encoding = answer.status_code, answer.headers.get("content-encoding", "identity")
                if status >= 400:
                    said = await _beginning(answer)
                    for secret in self._secrets:
                        said = said.replace(secret, "…")
                    said = f"{self.url}{path} answered {status}: {said}"
                    after = _seconds(answer.headers.get("retry-after", ""))
                    if status == 429 or (status == 503 and after is not None):
                        raise ServerBusy(said, waiting.BUSY[1] if after is None else after)
                    if status == 500:
                        raise ServerFailed(said)
                    raise (ServerGone if status > 501 else ServerRefused)(said)
                if status >= 300:
                    raise ServerRefused(f"{self.url}{path} answered {status}: redirects are not followed")
                if encoding != "identity":
                    raise ServerRefused(
                        f"{self.url} answers in {encoding[:MOST_SAID]}, which nobody asked for"
                    )
                yield self._pieces(answer, most)
        except (httpx2.TransportError, OSError) as error:
            raise ServerGone(f"{self.url}: {str(error)[:MOST_SAID] or type(error).__name__}") from error

    async def _pieces(self, answer: httpx2.Response, most: int) -> AsyncIterator[bytes]:
        count = 0
        async for piece in answer.aiter_raw():
            count += max(len(piece), _LEAST_PIECE)
            if count > most:
                raise ServerRefused(f"{self.url} answers with more than {most} bytes")
            yield piece

    def _read(self, data: bytes | bytearray, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ServerRefused(f"{self.url} answers what it should not: {error}") from error


def _seconds(retry_after: str) -> float | None:
    """How long a server wants to be left alone, as RFC 9110 has it, in bounds; None if it does not say."""
    seconds = None
    with suppress(ValueError):
        if retry_after.strip().isdecimal():
            seconds = float(retry_after[:16])
        elif retry_after:
            seconds = parsedate_to_datetime(retry_after).timestamp() - entropy.wall()
    return None if seconds is None else min(max(seconds, waiting.BUSY[0]), waiting.PATIENCE)


async def _beginning(answer: httpx2.Response) -> str:
    said = bytearray()
    async for piece in answer.aiter_raw():
        said += piece
        if len(said) > 4 * MOST_SAID:
            break
    return said.decode(errors="replace")[:MOST_SAID]
