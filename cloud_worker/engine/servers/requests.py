"""Requests that are too long for a message: fetched from their devices, as blobs, before a server is asked.

A text that waits for one holds up no other. Held requests are bounded, of each device and of all: a request is held
from its fetch until its text is over here, so that a server which dies in the middle costs no second fetch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.daemon.tasks import on_thread
from flexspec_mq.errors import LinkDown, LinkRefused, PublishRefused, RemoteProtocolError, ServerRefused
from flexspec_mq.models.byte_text.packed import unpacked
from flexspec_mq.transport.blobs import BlobFetch
from schemas.served import MAX_REQUEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flexspec_mq.transport.link import Link
    from schemas.served import ServedBlob

_OF_DEVICE, _OF_ALL = 2 * MAX_REQUEST, 16 * MAX_REQUEST
"""Bytes of requests that are held at a time; objects, and what is sent to the server, take some three times these."""
_PARTS = 8
"""Beginnings of requests that are kept where a fetch was left."""

_log = logging.getLogger(__name__)


class FetchedRequests:
    """Fetches requests from devices over the worker's link, for texts on the server's loop."""

    def __init__(self) -> None:
        self._worker = ""
        self._fetches: list[tuple[str, BlobFetch]] = []
        self._parts: ExpiringMap[tuple[str, str], BytesIO] = ExpiringMap(most=_PARTS, ttl=waiting.LEASE)
        self._link: Link | None = None
        self._listens = False
        # On the server's loop:
        self._held = Counter[str]()
        self._freed = asyncio.Event()

    async def run(self, link: Link, worker: str) -> None:
        """Fetch over a link, until cancelled, by the name of the worker on topics."""
        self._loop, self._listens = asyncio.get_running_loop(), False
        self._link, self._worker = link, worker
        try:
            await asyncio.Event().wait()
        finally:
            self._link = None

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on a topic of pieces; tell whether it did. On the worker's loop.

        Raises:
            RemoteProtocolError: it is no piece.
        """
        edge = topics.edge_of_request(topic, self._worker)
        for holder, fetch in self._fetches:
            if holder == edge:
                fetch.take(payload)
        return edge is not None

    @asynccontextmanager
    async def held(self, edge: str, blob: ServedBlob) -> AsyncIterator[bytes]:
        """The request that a device's prompt names, which counts as held inside the block. On the server's loop.

        It is waited for as long as the session lives: its device asks for the text until its own patience ends.

        Raises:
            ServerRefused: it cannot be fetched, or is something else.
        """
        size = blob.size + blob.length
        if size > _OF_DEVICE:
            raise ServerRefused(f"the device's request has {blob.length} bytes, more than {MAX_REQUEST}")
        while self._held[edge] + size > _OF_DEVICE or self._held.total() + size > _OF_ALL:
            _log.info("a request of edge %s waits: others of %d bytes are held", edge, self._held.total())
            self._freed.clear()
            await self._freed.wait()
        self._held[edge] += size
        try:
            if self._link is None:
                raise ServerRefused("the worker stops")
            fetching = asyncio.run_coroutine_threadsafe(self._fetch(self._link, edge, blob), self._loop)
            data: bytes = await asyncio.wrap_future(fetching)
            yield await on_thread(unpacked, blob, data)
        except RemoteProtocolError as error:
            raise ServerRefused(f"the request of device {edge} cannot be read: {error.message}") from error
        except (LinkRefused, PublishRefused) as error:
            raise ServerRefused(
                f"the broker lets this worker fetch no request of device {edge}, which is too long for a message: "
                f"{error.message}; its access rules are older than this release"
            ) from error
        finally:
            self._held -= Counter({edge: size})
            self._freed.set()

    async def _fetch(self, link: Link, edge: str, blob: ServedBlob) -> bytes:
        """The bytes of a blob, however often its device goes away meanwhile. On the worker's loop."""
        if not self._listens:
            with suppress(LinkDown):  # the link remembers it
                await link.subscribe(topics.request_topic(self._worker, "+"))
            self._listens = True
        into = self._parts.pop((edge, blob.name)) or BytesIO()
        _log.info("fetching %d bytes of a request from edge %s", blob.size, edge)
        while True:
            fetch = BlobFetch(self._worker, blob.name, blob.size, into, lambda: edge, size=blob.size)
            self._fetches.append(entry := (edge, fetch))
            try:
                if await fetch.run(link):
                    return into.getvalue()
            except asyncio.CancelledError:  # its device may open the session anew
                self._parts.put((edge, blob.name), into, entropy.now())
                raise
            finally:
                self._fetches.remove(entry)
            await asyncio.sleep(waiting.RETRY_AWAITED)
