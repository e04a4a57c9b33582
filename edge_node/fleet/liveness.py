"""Which workers hold our sessions, and whether the lives that we knew go on.

A worker's retained status carries the epoch of its process, and so does the will that says ``gone``. Only news of
the newest epoch counts: the will of an older life may come late. That a worker is gone is a reason to ask it again,
never to give up on it: it may only have lost its connection for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.errors import LinkDown, LinkRefused

if TYPE_CHECKING:
    from flexspec_mq.transport.base import Link
    from schemas.status import WorkerStatus

_log = logging.getLogger(__name__)


class WorkerLiveness:
    """Watches the status of each worker for as long as it holds a session. Bounded by the sessions."""

    def __init__(self) -> None:
        self._worker_of: dict[int, str] = {}
        self._epochs: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._subscribed: set[str] = set()

    @property
    def workers(self) -> set[str]:
        """Those that hold a session."""
        return set(self._worker_of.values())

    def holds(self, session: int, worker: str | None) -> None:
        """Note which worker holds a session now; None when none does or the session is over."""
        if self._worker_of.get(session) == worker:
            return
        if worker is None:
            del self._worker_of[session]
        else:
            self._worker_of[session] = worker
        for name in self._epochs.keys() - self.workers:
            del self._epochs[name]
        self._changed.set()

    def sessions_of(self, worker: str) -> list[int]:
        """Sessions that a worker holds."""
        return [session for session, holder in self._worker_of.items() if holder == worker]

    def ended(self, status: WorkerStatus) -> bool:
        """Take a status; tell whether it says that the life of a worker that we knew is over."""
        known = self._epochs.get(status.worker)
        if status.worker not in self.workers or (known is not None and status.epoch < known):
            return False
        self._epochs[status.worker] = status.epoch
        return status.state == "gone" or (known is not None and status.epoch > known)

    async def run(self, link: Link) -> None:
        """Keep the subscriptions as `workers` says, until cancelled.

        Raises:
            LinkError: the link failed for good.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self.workers
            for worker in self._subscribed - wanted:
                await self._unsubscribe(link, worker)
            for worker in wanted - self._subscribed:
                await self._subscribe(link, worker)

    async def _subscribe(self, link: Link, worker: str) -> None:
        self._subscribed.add(worker)
        try:
            await link.subscribe(topics.worker_status_topic(worker))
        except LinkDown:  # the link remembers it
            return
        except LinkRefused as error:
            _log.warning("the status of worker %s cannot be watched: %s", worker, error.message)

    async def _unsubscribe(self, link: Link, worker: str) -> None:
        self._subscribed.discard(worker)
        try:
            await link.unsubscribe(topics.worker_status_topic(worker))
        except LinkDown:  # the link has forgotten it
            return
