"""The bounded queue between a link and its one consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import Inbound, LinkCounters, LinkDownEvent, LinkEvent, LinkUpEvent

MAX_LINK_EVENTS = 32


class Inbox:
    """Messages and link events in order. On overflow the oldest message goes; link events go in pairs.

    Args:
        capacity: messages that may wait.
        counters: of the link; `received`, `bytes_in`, `inbound_dropped` and `flaps_dropped` are kept here.
    """

    def __init__(self, capacity: int, counters: LinkCounters) -> None:
        self._capacity = capacity
        self._counters = counters
        self._waiting: deque[LinkEvent] = deque()
        self._messages = 0
        self._changes = 0
        self._filled: asyncio.Future[None] | None = None
        self._end: LinkError | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put_message(self, message: Inbound) -> None:
        """Add a message; drop the oldest one if there is no room."""
        self._counters.received += 1
        self._counters.bytes_in += len(message.payload)
        if self._messages >= self._capacity:
            self._drop_oldest_message()
        self._waiting.append(message)
        self._messages += 1
        self._wake()

    def put_change(self, change: LinkUpEvent | LinkDownEvent) -> None:
        """Add a link event. They alternate, so dropping a pair keeps them alternating."""
        if self._changes >= MAX_LINK_EVENTS:
            self._drop_oldest_pair()
        self._waiting.append(change)
        self._changes += 1
        self._wake()

    def close(self, failure: LinkError | None = None) -> None:
        """End the iteration once what waits is consumed; with `failure`, by raising it."""
        self._closed = True
        self._end = failure
        self._wake()

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Iterate until closed.

        Raises:
            RuntimeError: a second consumer waits already.
            LinkError: the one given to `close`.
        """
        while True:
            while self._waiting:
                event = self._waiting.popleft()
                if isinstance(event, Inbound):
                    self._messages -= 1
                else:
                    self._changes -= 1
                yield event
            if self._closed:
                if self._end is not None:
                    raise self._end
                return
            if self._filled is not None:
                raise RuntimeError("a link has one consumer of events at a time")
            self._filled = asyncio.get_running_loop().create_future()
            try:
                await self._filled
            finally:
                self._filled = None

    def _wake(self) -> None:
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)

    def _drop_oldest_message(self) -> None:
        oldest = next(i for i, event in enumerate(self._waiting) if isinstance(event, Inbound))
        del self._waiting[oldest]
        self._messages -= 1
        self._counters.inbound_dropped += 1

    def _drop_oldest_pair(self) -> None:
        for _ in range(2):
            oldest = next(i for i, event in enumerate(self._waiting) if not isinstance(event, Inbound))
            del self._waiting[oldest]
        self._changes -= 2
        self._counters.flaps_dropped += 1
