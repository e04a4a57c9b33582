"""Statuses of other devices, for those who look at the fleet; followed for as long as somebody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import LinkDown, LinkRefused, RemoteProtocolError
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link

MAX_DEVICES = 256
"""Devices that are shown at most; those beyond are left out."""
_log = logging.getLogger(__name__)


class DeviceStatuses:
    """Newest statuses of devices, as far as the broker lets this node read them.

    Attributes:
        watchers: how many look at them now.
    """

    def __init__(self) -> None:
        self.watchers = 0
        self._known: dict[str, EdgeStatus] = {}
        self._codec = Codec()
        self._turn = asyncio.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow them for as long as the block lasts."""
        self.watchers += 1
        self._turn.set()
        try:
            yield
        finally:
            self.watchers -= 1
            self._turn.set()

    def online(self) -> list[EdgeStatus]:
        """Statuses of devices that are online, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def take(self, topic: str, payload: bytes) -> bool:
        """Take a message if it is the status of a device; whether it was.

        Raises:
            RemoteProtocolError: it cannot be read, or is that of another device.
        """
        edge = topics.worker_of_status(topic, "e")
        if edge is None:
            return False
        status = self._codec.decode_status(payload, EdgeStatus) if payload else None
        if status is None or status.state == "gone":
            self._known.pop(edge, None)
        elif status.edge != edge:
            raise RemoteProtocolError(f"the status of device {edge} is that of {status.edge}")
        elif edge in self._known or len(self._known) < MAX_DEVICES:
            self._known[edge] = status
        return True

    async def run(self, link: Link) -> None:
        """Follow the statuses while somebody looks.

        Raises:
            LinkError: the link failed for good.
        """
        statuses, follows = topics.edge_status_topic("+"), False
        while True:
            await self._turn.wait()
            self._turn.clear()
            if follows == bool(self.watchers):
                continue
            follows = bool(self.watchers)
            try:
                with suppress(LinkDown):  # the link remembers it
                    await (link.subscribe(statuses) if follows else link.unsubscribe(statuses))
            except LinkRefused as error:
                _log.info("statuses of other devices cannot be seen: %s", error.message)
            if not follows:
                self._known.clear()
