"""The link to a broker as the rest of the project sees it. Nothing here knows how bytes travel.

A link is run by an async context manager. It keeps one connection alive, renews every subscription and
publishes the birth messages before it says `LinkUpEvent`, and never holds a message back for a later
connection: what cannot go out now fails now, and the session protocol decides what to send again.

A failure that no retry can mend (`LinkRefused`, or the end of `LinkSettings.give_up_after`) is raised by
`wait_up`, `events`, `publish` and `subscribe`, whichever the caller is in, and at the latest on leaving the
context.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import LinkDown, LinkError, LinkRefused
from flexspec_mq.transport.base import (
    LinkCounters,
    LinkDownEvent,
    LinkEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
)
from flexspec_mq.transport.inbox import Inbox


class Link(ABC):
    """A running link. The subclass says what happened; users ask and wait, all on the event loop that made it.

    Attributes:
        wanted: topic filter → QoS, renewed on each connection.
        is_up: true between `LinkUpEvent` and `LinkDownEvent`; read only.
        counters: the live counters; read only.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.settings = settings
        self.wanted: dict[str, int] = {s.filter: s.qos for s in settings.subscriptions}
        self.counters = LinkCounters()
        self.is_up = False
        self._inbox = Inbox(
            settings.inbound_queue, self.counters, most_bytes=settings.inbound_bytes, admit=settings.admit
        )
        self._settled = asyncio.Event()
        self._failure: LinkError | None = None
        self._failure_told = False
        self._down_reason = "not connected yet"

    async def wait_up(self, timeout: float | None = None) -> None:
        """Wait until the link is up.

        Raises:
            LinkDown: not within `timeout` seconds.
            LinkError: the link failed for good.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.is_up:
                    self._raise_failure()
                    await self._settled.wait()
        except TimeoutError:
            raise LinkDown(
                f"no connection to the broker at {self.settings.address} within {timeout} s: "
                f"{self._down_reason}"
            ) from None

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Messages and changes of the link, in order. For one consumer at a time.

        The queue is bounded by `LinkSettings.inbound_queue` and `inbound_bytes`. On overflow the oldest *message* of
        the topic that has the most is dropped and counted: newer drafts, polls and verdicts cover older ones. Up and
        down events stay; at most 32 wait, of more the oldest pairs are dropped, so they still alternate.

        Raises:
            LinkError: from the iterator, when the link failed for good.
        """
        try:
            async for event in self._inbox.events():
                yield event
        except LinkError:
            self._failure_told = True
            raise

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry: float | None = None
    ) -> None:
        """Make an `Outbound` of these and `send` it, with the same errors."""
        await self.send(Outbound(topic, payload, qos, retain, expiry))

    async def send(self, message: Outbound) -> None:
        """Hand one message to the broker: QoS 0 to the socket, QoS 1 and 2 until acknowledged.

        A message that fails is never sent by a later connection. It may have arrived all the same if the
        connection broke, or the call was cancelled, between sending and the acknowledgement.

        Raises:
            LinkDown: not connected, the connection broke, or no acknowledgement within `publish_timeout`.
            PublishRefused: with the broker's reason code: 0x10 nobody subscribes (not when `retain`: then it
                is stored), 0x87 access rules, both only at QoS ≥ 1; 0x95 larger than the broker takes, 0x9A
                and 0x9B no retained messages or not this QoS; and 0x97 too many calls wait here.
        """
        self._require_up()
        await self._send(message)
        self.counters.published += 1

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now and on each later connection. While down it is only remembered.

        Raises:
            LinkRefused: the broker said no; the filter is forgotten.
            LinkDown: the connection broke first; the filter is remembered.
        """
        self._raise_failure()
        self.wanted[topic_filter] = qos
        await self._subscribe(topic_filter, qos)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Forget the filter, and tell the broker if the link is up.

        Raises:
            LinkDown: the connection broke first; the filter is forgotten all the same.
        """
        self._raise_failure()
        self.wanted.pop(topic_filter, None)
        await self._unsubscribe(topic_filter)

    @abstractmethod
    def reconnect(self, reason: str) -> None:
        """Have a new connection at once: instead of this one, or, while down, without waiting longer to try again.

        Attempts stay `LinkSettings.backoff` apart, unless the wait was shorter anyway.
        """

    @abstractmethod
    async def _send(self, message: Outbound) -> None:
        """Hand a message that may be sent to the broker; the link was up a moment ago.

        Raises:
            LinkDown, PublishRefused: as of `send`.
        """

    @abstractmethod
    async def _subscribe(self, topic_filter: str, qos: int) -> None:
        """Tell the broker of a new filter, if there is a connection."""

    @abstractmethod
    async def _unsubscribe(self, topic_filter: str) -> None:
        """Tell the broker that a filter is gone, if there is a connection."""

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._failure_told = True
            raise self._failure

    def _require_up(self) -> None:
        self._raise_failure()
        if not self.is_up:
            raise LinkDown(f"no connection to the broker at {self.settings.address}: {self._down_reason}")

    def _mark_up(self, *, anew: bool = True) -> None:
        """Announce that messages pass: over another connection, or again over the one that there is."""
        self.is_up = True
        self.counters.connects += anew
        self._inbox.put_change(LinkUpEvent(self.counters.connects))
        self._settled.set()

    def _mark_down(self, reason: str, *, lost: bool = True) -> None:
        """Note why no messages pass, and announce it if they did; the connection is lost, or silent."""
        self._down_reason = reason
        if not self.is_up:
            return
        self.is_up = False
        self.counters.disconnects += lost
        self._settled.clear()
        self._inbox.put_change(LinkDownEvent(reason))

    def _taken_over(self) -> LinkRefused:
        return LinkRefused(
            f"another connection to {self.settings.address} took over the client id "
            f"{self.settings.client_id!r}",
            hint="give each process a name of its own",
        )

    def _fail(self, failure: LinkError) -> None:
        """End the link for good."""
        self._failure = failure
        self._inbox.close(failure)
        self._settled.set()

    @asynccontextmanager
    async def supervising(self, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run `work` beside the body and cancel it with the body's end.

        If it dies of an unexpected error, the link fails at once, so the body meets that in its next call, and
        the error itself is raised on leaving.

        Raises:
            LinkError: the failure of the link, if the body ended in order and nobody was told of it.
        """
        try:
            async with running(work, f"link {self.settings.client_id}") as task:
                task.add_done_callback(self._note_done)
                yield
        finally:
            self._mark_down("the link was closed")
            self._inbox.close(self._failure)
            if not task.cancelled() and (bug := task.exception()) is not None:
                raise bug
        if not self._failure_told:
            self._raise_failure()

    def _note_done(self, task: asyncio.Task[None]) -> None:
        """Fail the link if its background work died."""
        if not task.cancelled() and (bug := task.exception()) is not None:
            failure = LinkError(f"the link to {self.settings.address} stopped working: {bug!r}")
            failure.__cause__ = bug
            self._mark_down("the link stopped working")
            self._fail(failure)


LinkFactory: TypeAlias = Callable[[LinkSettings], AbstractAsyncContextManager[Link]]
