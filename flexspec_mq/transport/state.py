"""State that all links share: up or down, failed for good or not, and the queue of events."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import LinkDown, LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    LinkCounters,
    LinkDownEvent,
    LinkEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
)
from flexspec_mq.transport.filters import check_filter, check_qos, check_topic
from flexspec_mq.transport.inbox import Inbox


class BaseLink(ABC):
    """Base of the links. The subclass says what happened; users ask and wait.

    Attributes:
        wanted: topic filter → QoS, renewed on each connection.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.settings = settings
        self.wanted: dict[str, int] = {s.filter: s.qos for s in settings.subscriptions}
        for subscription in settings.subscriptions:
            check_filter(subscription.filter)
            check_qos(subscription.qos)
        self._counters = LinkCounters()
        self._inbox = Inbox(
            settings.inbound_queue,
            self._counters,
            most_bytes=settings.inbound_bytes,
            admit=settings.admit,
        )
        self._is_up = False
        self._settled = asyncio.Event()
        self._failure: LinkError | None = None
        self._failure_told = False
        self._down_reason = "not connected yet"

    @property
    def is_up(self) -> bool:
        """Between `LinkUpEvent` and `LinkDownEvent`."""
        return self._is_up

    @property
    def counters(self) -> LinkCounters:
        """The live counters."""
        return self._counters

    async def wait_up(self, timeout: float | None = None) -> None:
        """Wait until the link is up; see `Link.wait_up`."""
        try:
            async with asyncio.timeout(timeout):
                while not self._is_up:
                    self._raise_failure()
                    await self._settled.wait()
        except TimeoutError:
            raise LinkDown(
                f"no connection to the broker at {self.settings.address} within {timeout} s: "
                f"{self._down_reason}"
            ) from None

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Messages and changes of the link, in order; see `Link.events`."""
        try:
            async for event in self._inbox.events():
                yield event
        except LinkError:
            self._failure_told = True
            raise

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        expiry: float | None = None,
    ) -> None:
        """Hand one message to the broker; see `Link.publish`."""
        check_topic(topic)
        check_qos(qos)
        try:
            self._require_up()
            await self._send(Outbound(topic, payload, qos, retain, expiry))
        except PublishRefused:
            self._counters.publish_refused += 1
            raise
        except LinkDown:
            self._counters.publish_lost += 1
            raise
        self._counters.published += 1
        self._counters.bytes_out += len(payload)

    @abstractmethod
    async def _send(self, message: Outbound) -> None:
        """Hand a message that may be sent to the broker; the link was up a moment ago.

        Raises:
            LinkDown, PublishRefused: as of `publish`.
        """

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now and on each later connection; see `Link.subscribe`."""
        check_filter(topic_filter)
        check_qos(qos)
        self._raise_failure()
        self.wanted[topic_filter] = qos
        await self._subscribe(topic_filter, qos)

    @abstractmethod
    async def _subscribe(self, topic_filter: str, qos: int) -> None:
        """Tell the broker of a new filter, if there is a connection."""

    async def unsubscribe(self, topic_filter: str) -> None:
        """Forget the filter, and tell the broker if the link is up; see `Link.unsubscribe`."""
        self._raise_failure()
        self.wanted.pop(topic_filter, None)
        await self._unsubscribe(topic_filter)

    @abstractmethod
    async def _unsubscribe(self, topic_filter: str) -> None:
        """Tell the broker that a filter is gone, if there is a connection."""

    def raise_untold(self) -> None:
        """Raise the failure that nobody has been told of.

        Raises:
            LinkError: the link failed for good.
        """
        if not self._failure_told:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._failure_told = True
            raise self._failure

    def _require_up(self) -> None:
        self._raise_failure()
        if not self._is_up:
            raise LinkDown(f"no connection to the broker at {self.settings.address}: {self._down_reason}")

    def _mark_up(self, *, session_present: bool) -> None:
        self._is_up = True
        self._counters.connects += 1
        self._inbox.put_change(LinkUpEvent(self._counters.connects, session_present))
        self._settled.set()

    def _mark_down(self, reason: str) -> None:
        """Note why there is no connection; announce it if there was one."""
        self._down_reason = reason
        if not self._is_up:
            return
        self._is_up = False
        self._counters.disconnects += 1
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

    def on_done(self, task: asyncio.Task[None]) -> None:
        """Fail the link if its background work died."""
        if not task.cancelled() and (bug := task.exception()) is not None:
            failure = LinkError(f"the link to {self.settings.address} stopped working: {bug!r}")
            failure.__cause__ = bug
            self._mark_down("the link stopped working")
            self._fail(failure)

    def close(self) -> None:
        """End the link in order: down, and no more events after those that wait."""
        self._mark_down("the link was closed")
        self._inbox.close(self._failure)


@asynccontextmanager
async def supervised(link: BaseLink, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the body and cancel it with the body's end.

    If it dies of an unexpected error, the link fails at once, so the body meets that in its next call, and
    the error itself is raised on leaving.

    Raises:
        LinkError: the failure of the link, if the body ended in order and nobody was told of it.
    """
    try:
        async with running(work, f"link {link.settings.client_id}") as task:
            task.add_done_callback(link.on_done)
            yield
    finally:
        link.close()
        if not task.cancelled() and (bug := task.exception()) is not None:
            raise bug
    link.raise_untold()
