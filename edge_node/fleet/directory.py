"""Whether the node's link is up, and which workers are online: seen on the link, without asking the node.

`LinkWatch` is a `LinkFactory` around another one. Give it to `EdgeNode.running` in the other's place; the node's
only connection then also carries the retained status of all workers. A broker that allows no wildcard there costs
knowledge, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import LinkDown, LinkError, LinkRefused, RemoteProtocolError
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import Inbound
from flexspec_mq.transport.forwarding import ForwardingLink
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flexspec_mq.transport.base import Link, LinkEvent, LinkFactory, LinkSettings

MAX_WORKERS = 1024
"""Workers known at most; of more, the one that has been silent for longest is forgotten."""
STALE = 60.0
"""Seconds without news after which a worker counts as gone; workers renew their status every few seconds."""

_log = logging.getLogger(__name__)


class Workers:
    """What retained statuses say. Ages are measured here, since the clocks of two machines differ.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._codec = Codec()
        self._known: dict[str, tuple[float, WorkerStatus]] = {}
        self._news = asyncio.Event()

    def take(self, worker: str, payload: bytes) -> None:
        """Take a status as it came; one that cannot be read is the node's to complain about."""
        try:
            status = self._codec.decode_status(payload, WorkerStatus) if payload else None
        except RemoteProtocolError:
            return
        known = self._known.get(worker)
        if status is None:
            self._known.pop(worker, None)
        elif status.worker == worker and (known is None or status.epoch >= known[1].epoch):
            self._known.pop(worker, None)  # the newest stands last
            self._known[worker] = (self._clock(), status)
            if len(self._known) > MAX_WORKERS:
                del self._known[next(iter(self._known))]
            self._news.set()
            self._news = asyncio.Event()

    @property
    def any(self) -> bool:
        """Whether there is a status of any worker, online or not."""
        return bool(self._known)

    def online(self) -> list[WorkerStatus]:
        """Statuses of workers that take new sessions."""
        since = self._clock() - STALE
        return [status for at, status in self._known.values() if status.state == "online" and at >= since]

    def versions(self) -> dict[str, int]:
        """Versions that have a worker online, and since when: ms since the Unix epoch."""
        found: dict[str, int] = {}
        for status in self.online():
            if status.version:
                found[status.version] = min(status.epoch, found.get(status.version, status.epoch))
        return found

    async def wait_for(self, version: str, timeout: float) -> bool:
        """Wait for a worker of a version; tell whether there is one."""
        try:
            async with asyncio.timeout(timeout):
                while version not in self.versions():
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def exactness(self, version: str) -> str:
        """What can be said of any text of a version: the weakest word of its workers, ``unknown`` without any."""
        said = {status.exactness for status in self.online() if status.version == version}
        return next((word for word in ("unknown", "exact up to ties", "exact") if word in said), "unknown")

    def recommended(self, version: str) -> SamplingParams:  # noqa: ARG002
        """How the makers of a version's target recommend to choose its tokens."""
        return SamplingParams(temperature=1.0)


class LinkWatch:
    """A `LinkFactory` that can be asked about its link.

    Attributes:
        workers: seen on it.
        blind: the broker does not let us see any.
    """

    def __init__(self, connect: LinkFactory) -> None:
        self._connect = connect
        self._link: Link | None = None
        self._failed: asyncio.Future[LinkError] | None = None
        self.workers = Workers()
        self.blind = False

    @property
    def is_up(self) -> bool:
        """Whether there is a link, and it is up."""
        return self._link is not None and self._link.is_up

    async def failure(self) -> None:
        """Wait until the link fails for good.

        Raises:
            LinkError: when it does.
        """
        raise await asyncio.shield(self._failing())

    async def wait_up(self, timeout: float) -> bool:
        """Wait for the link up to `timeout` seconds; tell whether it is up.

        Raises:
            LinkError: the link failed for good.
        """
        if self._link is None:
            return False
        try:
            await self._link.wait_up(timeout)
        except LinkDown:
            return False
        return True

    @asynccontextmanager
    async def __call__(self, settings: LinkSettings) -> AsyncIterator[Link]:
        """Run a link as the other factory does, and watch it."""
        async with self._connect(settings) as link:
            self._link = link
            try:
                await self._subscribe(link)
                yield _Watched(link, self.workers, self._fails)
            finally:
                self._link = None

    def _failing(self) -> asyncio.Future[LinkError]:
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        return self._failed

    def _fails(self, error: LinkError) -> None:
        if not (failed := self._failing()).done():
            failed.set_result(error)

    async def _subscribe(self, link: Link) -> None:
        try:
            await link.subscribe(topics.worker_status_topic("+"))
        except LinkDown:  # the link remembers it
            return
        except LinkRefused as error:
            self.blind = True
            _log.warning("which workers are online cannot be watched: %s", error.message)


class _Watched(ForwardingLink):
    """A link that shows the statuses among its messages to `Workers`, and passes everything on."""

    def __init__(self, link: Link, workers: Workers, fails: Callable[[LinkError], None]) -> None:
        super().__init__(link)
        self._workers = workers
        self._fails = fails

    async def events(self) -> AsyncIterator[LinkEvent]:
        try:
            async for event in self._link.events():
                if isinstance(event, Inbound):
                    worker = topics.worker_of_status(event.topic)
                    if worker is not None:
                        self._workers.take(worker, event.payload)
                yield event
        except LinkError as error:
            self._fails(error)
            raise
