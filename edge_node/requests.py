"""Requests that are too long for a message: workers fetch them while their texts are written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.energy.model import OVERHEAD_UP
from flexspec_mq.errors import LinkDown, LinkRefused
from flexspec_mq.transport.blobs import BlobHolder

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from flexspec_mq.transport.link import Link

_log = logging.getLogger(__name__)


class HeldRequests:
    """Holds the packed requests of texts that are being written.

    Args:
        edge: name of the node on topics.
        sessions: texts that are being written.
        others: waits until nothing else is to be published, or for so many seconds.
        carried: told bytes of IP that went out.
    """

    def __init__(
        self,
        edge: str,
        sessions: Mapping[int, Generation],
        others: Callable[[float], Awaitable[object]],
        carried: Callable[[int], None],
    ) -> None:
        self._edge, self._sessions, self._carried = edge, sessions, carried
        self._blobs: dict[str, bytes] = {}
        self._holder = BlobHolder(
            self._blobs, others, topic=lambda worker: topics.request_topic(worker, edge), sent=self._sent
        )
        self._wanted = asyncio.Event()

    def hold(self, generation: Generation) -> None:
        """Hold a text's request, if it is a blob."""
        if (packed := generation.request.packed) is not None:
            self._blobs[packed.name] = packed.data
            self._wanted.set()

    def drop(self, generation: Generation) -> None:
        """A text is over, and has left the sessions."""
        packed = generation.request.packed
        if packed is not None and not self._of(packed.name):
            self._blobs.pop(packed.name, None)

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on the topic of a worker that asks; tell whether it did.

        Raises:
            RemoteProtocolError: it asks for nothing.
        """
        sender = topics.sender_of(topic)
        if sender is None or topic != topics.blob_request_topic(self._edge, sender.edge):
            return False
        self._holder.ask(sender.edge, payload)
        return True

    async def run(self, link: Link, give_up: Callable[[Generation, LinkRefused], None]) -> None:
        """Give workers what they ask for, once there is something, until cancelled.

        Args:
            link: link to the broker.
            give_up: ends a text whose request no worker can fetch.

        Raises:
            LinkError: the link failed for good.
        """
        while True:
            await self._wanted.wait()
            try:
                with suppress(LinkDown):  # the link remembers it
                    await link.subscribe(topics.blob_request_topic(self._edge, "+"))
            except LinkRefused as error:
                _log.error("no worker can fetch a long request from this device: %s", error.message)
                self._wanted.clear()
                for generation in list(self._sessions.values()):
                    if generation.request.packed is not None:
                        give_up(generation, error)
                continue
            await self._holder.run(link)

    def _of(self, name: str) -> list[Generation]:
        held = (each for each in self._sessions.values() if each.request.packed is not None)
        return [each for each in held if each.request.packed and each.request.packed.name == name]

    def _sent(self, name: str, size: int) -> None:
        self._carried(size + OVERHEAD_UP)
        for generation in self._of(name)[:1]:
            generation.fetched += size
            generation.sent(size)
