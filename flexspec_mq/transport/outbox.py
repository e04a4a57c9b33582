"""One bounded queue of messages to publish, between code that decides and a link that may be slow or down."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from flexspec_mq.errors import LinkDown, PublishRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.transport.base import Link, Outbound

_log = logging.getLogger(__name__)


class Outbox:
    """Publishes in order, with several acknowledgements outstanding at a time.

    When it is full the oldest message is dropped and counted: newer verdicts, drafts and polls cover older ones,
    and the session protocol asks again for what is missing. A message that cannot be published is lost, counted
    and told to `on_lost`.

    Attributes:
        dropped: on overflow.
        lost: because the link was down or the broker refused.
    """

    def __init__(
        self,
        *,
        bound: int = 4096,
        outstanding: int = 64,
        on_lost: Callable[[Outbound, LinkDown | PublishRefused], None] | None = None,
    ) -> None:
        self._waiting: deque[Outbound] = deque()
        self._bound = bound
        self._slots = asyncio.Semaphore(outstanding)
        self._on_lost = on_lost
        self._ready = asyncio.Event()
        self._underway: set[asyncio.Task[None]] = set()
        self.dropped = 0
        self.lost = 0

    def put(self, message: Outbound) -> None:
        """Queue a message; never waits."""
        if len(self._waiting) >= self._bound:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(message)
        self._ready.set()

    async def run(self, link: Link) -> None:
        """Publish what is queued until cancelled."""
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._waiting:
                    message = self._waiting.popleft()
                    if message.qos == 0:
                        await self._publish(link, message)
                        continue
                    await self._slots.acquire()
                    task = asyncio.create_task(self._publish(link, message))
                    self._underway.add(task)
                    task.add_done_callback(self._done)
        finally:
            for task in self._underway:
                task.cancel()

    async def flush(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until everything queued is published."""
        ends = asyncio.get_running_loop().time() + timeout
        while (self._waiting or self._underway) and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.01)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._underway.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("publishing failed", exc_info=error)

    async def _publish(self, link: Link, message: Outbound) -> None:
        try:
            await link.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=message.retain,
                expiry=message.expiry,
            )
        except (LinkDown, PublishRefused) as error:
            self.lost += 1
            if self._on_lost is not None:
                self._on_lost(message, error)
