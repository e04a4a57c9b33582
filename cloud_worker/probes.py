"""A small HTTP server beside a worker: /metrics, /healthz and /readyz, and nothing else.

It answers GET on the worker's own event loop. Requests are bounded in size, time and number, and an answer is a page
of a few kilobytes, so a scraper cannot hold up verdicts.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from cloud_worker.metrics import CONTENT_TYPE
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cloud_worker.metrics import Metrics
    from cloud_worker.worker import CloudWorker

_log = logging.getLogger(__name__)

_MOST_BYTES = 8192
"""Of a request's head."""
_MOST_SECONDS = 5.0
"""For a request to arrive, and for its answer to leave."""
_MOST_AT_ONCE = 16
"""Connections; further ones are closed at once."""
_PLAIN = "text/plain; charset=utf-8"


@asynccontextmanager
async def observed(
    worker: CloudWorker, metrics: Metrics, *, host: str = "127.0.0.1", port: int = 0, anywhere: bool = False
) -> AsyncIterator[int]:
    """Answer HTTP inside the block; yields the port.

    Args:
        worker: whose readiness is told.
        metrics: the page.
        host: address to listen on.
        port: 0 is any that is free.
        anywhere: listen on an address that others can reach. There is no authentication and no TLS.

    Raises:
        UsageError: the address is not of this machine alone and `anywhere` is not set, or it is taken.
    """
    if not anywhere and not is_loopback(host):
        raise UsageError(
            f"metrics at {host} could be read by others", hint="use 127.0.0.1, or say that this is wanted"
        )
    answering = _Answering(worker, metrics)
    try:
        server = await asyncio.start_server(answering.serve, host, port, limit=_MOST_BYTES)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"metrics cannot be served at {host}:{port}: {error}", hint="choose another port"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await answering.stop()
        await server.wait_closed()


class _Answering:
    """One request per connection."""

    def __init__(self, worker: CloudWorker, metrics: Metrics) -> None:
        self._worker = worker
        self._metrics = metrics
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection and close it."""
        task = asyncio.current_task()
        if task is None or len(self._open) >= _MOST_AT_ONCE:
            writer.close()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            _log.debug("a request for metrics came to nothing: %r", error)
        finally:
            self._open.discard(task)
            writer.close()

    async def stop(self) -> None:
        """End what is open."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.partition(b" ")[0]
        if method not in (b"GET", b"HEAD"):
            status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, _PLAIN, b"only GET\n"
        else:
            status, kind, body = self._page(path.split(b"?", 1)[0])
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(("Allow: GET, HEAD",) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == b"HEAD" else body)

    def _page(self, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        if path == b"/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, self._metrics.page()
        if path == b"/healthz":
            return HTTPStatus.OK, _PLAIN, b"ok\n"
        if path == b"/readyz":
            why = self._worker.not_ready
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            return status, _PLAIN, f"{why or 'ready'}\n".encode()
        return HTTPStatus.NOT_FOUND, _PLAIN, b"there are /metrics, /healthz and /readyz\n"
