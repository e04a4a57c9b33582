"""Bounded queue of messages to publish, between code that decides and a link that may be slow or down."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from flexspec_mq import entropy
from flexspec_mq.daemon.tasks import ended
from flexspec_mq.errors import LinkDown, PublishRefused
from flexspec_mq.transport.base import Outbound

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link

    OnLost = Callable[[LinkDown | PublishRefused], None]
    OnPublished = Callable[[int, int, float, float], None]


class PublishQueue:
    """Publishes in order, with several acknowledgements outstanding at a time.

    When it is full the oldest message is dropped and counted: newer verdicts, drafts and polls cover older ones,
    and the session protocol asks again for what is missing. A message that cannot be published is lost and counted,
    and its owner is told: an entry is a message and whom to call then.

    Args:
        bound: messages that may wait.
        outstanding: publishes of QoS ≥ 1 that may be unacknowledged.
        on_published: told of each message that the link is done with: its QoS, the bytes of its payload, the seconds
            since it was handed over, and `entropy.now`.

    Attributes:
        dropped: on overflow.
        lost: because the link was down or the broker refused.
    """

    def __init__(
        self, *, bound: int = 4096, outstanding: int = 64, on_published: OnPublished | None = None
    ) -> None:
        self._waiting: deque[tuple[Outbound, OnLost | None]] = deque()
        self._bound = bound
        self._on_published = on_published
        self._slots = asyncio.Semaphore(outstanding)
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._underway: set[asyncio.Task[None]] = set()
        self._handing = False  # a message of QoS 0 is with the link
        self._failure: BaseException | None = None
        self.dropped = 0
        self.lost = 0

    def __len__(self) -> int:
        """Messages that wait to be handed to the link."""
        return len(self._waiting)

    def put(self, message: Outbound, on_lost: OnLost | None = None) -> None:
        """Queue a message, and whom to tell why it was lost; never waits."""
        if len(self._waiting) >= self._bound:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((message, on_lost))
        self._idle.clear()
        self._ready.set()

    async def run(self, link: Link) -> None:
        """Publish what is queued until cancelled.

        Raises:
            LinkError: the link failed for good.
            Exception: whatever else a publish raised: a bug, of ours or of who is told.
        """
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                await self._publish_waiting(link)
                if self._failure is not None:
                    raise self._failure
                self._note_idle()
        finally:
            await ended(self._underway)

    async def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until everything queued is published or lost; tell whether it is."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _publish_waiting(self, link: Link) -> None:
        while self._waiting and self._failure is None:
            if self._waiting[0][0].qos == 0:
                self._handing = True
                await self._publish(link, *self._waiting.popleft())
                self._handing = False
                continue
            # While this waits an overflow may drop the head; it puts another message in, so one is always left.
            await self._slots.acquire()
            task = asyncio.create_task(self._publish(link, *self._waiting.popleft()), name="publish one")
            self._underway.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._underway.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._ready.set()  # the loop raises it
        self._note_idle()

    def _note_idle(self) -> None:
        if not (self._waiting or self._underway or self._handing):
            self._idle.set()

    async def _publish(self, link: Link, message: Outbound, on_lost: OnLost | None) -> None:
        began = entropy.now()
        try:
            await link.send(message)
        except (LinkDown, PublishRefused) as error:
            self.lost += 1
            if on_lost is not None:
                on_lost(error)
            return
        if self._on_published is not None:
            now = entropy.now()
            self._on_published(message.qos, len(message.payload), now - began, now)
