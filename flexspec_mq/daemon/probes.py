"""A small HTTP server for pages such as /metrics, /healthz and /readyz, and nothing else.

It answers GET on the daemon's own event loop. Requests are bounded in size, time and number, and an answer is a page
of a few kilobytes, so whoever asks cannot hold the daemon up.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, NamedTuple

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import ended
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Section, Setting
from flexspec_mq.settings.values import is_loopback

_log = logging.getLogger(__name__)

_MOST_BYTES = 8192
"""Bytes of a request's head."""
_MOST_AT_ONCE = 16
"""Connections; further ones are closed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOptions(Section):
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` answer."""

    metrics_port: Annotated[
        int | None,
        Setting(help="port for figures and probes; 0 takes a free one", least=0, most=65_535, default="off"),
    ] = None
    metrics_host: Annotated[str, Setting(help="address that they listen on")] = "127.0.0.1"
    metrics_anywhere: Annotated[
        bool, Setting(help="let them, which know no login, listen beyond this machine")
    ] = False


class Page(NamedTuple):
    """An answer: body, status, and media type of the body."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Page]]
"""Pages by path; each is made when somebody asks."""


@asynccontextmanager
async def serving(
    pages: Pages, *, host: str = "127.0.0.1", port: int = 0, anywhere: bool = False
) -> AsyncIterator[int]:
    """Answer HTTP inside the block; yields the port.

    Args:
        pages: all pages, two at least.
        host: address to listen on.
        port: port to listen on; 0 is any that is free.
        anywhere: whether others may reach the address. There is no authentication and no TLS.

    Raises:
        UsageError: the address is not of this machine alone and `anywhere` is not set, or it is taken.
    """
    if not anywhere and not is_loopback(host):
        raise UsageError(
            f"metrics at {host} could be read by others", hint="use 127.0.0.1, or say that this is wanted"
        )
    probes = _Probes(pages)
    try:
        server = await asyncio.start_server(probes.serve, host, port, limit=_MOST_BYTES)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"metrics cannot be served at {host}:{port}: {error}", hint="choose another port"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await ended(probes.open)
        await server.wait_closed()


class _Probes:
    """Server of probes, with one request per connection."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection and close it."""
        task = asyncio.current_task()
        if task is None or len(self.open) >= _MOST_AT_ONCE:
            writer.close()
            return
        self.open.add(task)
        try:
            async with asyncio.timeout(waiting.CONNECT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            _log.debug("a request for metrics came to nothing: %r", error)
        finally:
            self.open.discard(task)
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.partition(b" ")[0]
        if method not in (b"GET", b"HEAD"):
            page = Page(b"only GET\n", HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            page = self._page(path.split(b"?", 1)[0].decode("latin-1"))
        lines = (
            f"HTTP/1.1 {page.status.value} {page.status.phrase}",
            f"Content-Type: {page.kind}",
            f"Content-Length: {len(page.body)}",
            "Connection: close",
            *(("Allow: GET, HEAD",) if page.status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == b"HEAD" else page.body)

    def _page(self, path: str) -> Page:
        make = self._pages.get(path)
        if make is None:
            *most, last = self._pages
            return Page(f"there are {', '.join(most)} and {last}\n".encode(), HTTPStatus.NOT_FOUND)
        return make()
