"""The bounded queue between a link and its one consumer, in which no topic takes the place of the others."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count

from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import Inbound, LinkCounters, LinkDownEvent, LinkEvent, LinkUpEvent

MAX_LINK_EVENTS = 32


@dataclass(slots=True)
class _Topic:
    """Messages of a topic that wait, by their numbers."""

    numbers: deque[int] = field(default_factory=deque)
    size: int = 0


class Inbox:
    """Messages and link events in order.

    On overflow the oldest message goes of the topic that has the most messages, or the most bytes, waiting. Each
    device publishes on topics of its own, so one that sends too much loses its own messages only. Link events go in
    pairs.

    Args:
        capacity: messages that may wait.
        counters: counters of the link, of which `received`, `bytes_in`, `inbound_refused` and `inbound_dropped`
            are kept here.
        most_bytes: bytes of payload that may wait.
        admit: asked by topic and size whether a message is wanted; all are without it.
    """

    def __init__(
        self,
        capacity: int,
        counters: LinkCounters,
        *,
        most_bytes: int = 2**24,
        admit: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._counters = counters
        self._admit = admit
        self._numbers = count()
        self._waiting: dict[int, LinkEvent] = {}
        self._topics: dict[str, _Topic] = {}
        self._messages = self._bytes = 0
        self._changes: deque[int] = deque()
        self._filled: asyncio.Future[None] | None = None
        self._end: LinkError | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def wants(self, topic: str, size: int) -> bool:
        """Whether a message may be put; counts one that may not."""
        if self._admit is None or self._admit(topic, size):
            return True
        self._counters.inbound_refused += 1
        return False

    def put_message(self, message: Inbound) -> None:
        """Add a message; drop older ones if there is no room."""
        size = len(message.payload)
        self._counters.received += 1
        number = next(self._numbers)
        self._waiting[number] = message
        topic = self._topics.setdefault(message.topic, _Topic())
        topic.numbers.append(number)
        topic.size += size
        self._messages += 1
        self._bytes += size
        while self._messages > self._capacity:
            self._drop_oldest(max(self._topics.values(), key=lambda topic: len(topic.numbers)))
        while self._bytes > self._most_bytes:
            self._drop_oldest(max(self._topics.values(), key=lambda topic: topic.size))
        self._wake()

    def put_change(self, change: LinkUpEvent | LinkDownEvent) -> None:
        """Add a link event. They alternate, so dropping a pair keeps them alternating."""
        if len(self._changes) >= MAX_LINK_EVENTS:
            for _ in range(2):
                del self._waiting[self._changes.popleft()]
        number = next(self._numbers)
        self._waiting[number] = change
        self._changes.append(number)
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
                yield self._take(next(iter(self._waiting)))
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

    def _take(self, number: int) -> LinkEvent:
        """Remove an event that is the oldest, or the oldest message of its topic."""
        event = self._waiting.pop(number)
        if not isinstance(event, Inbound):
            self._changes.popleft()
            return event
        topic = self._topics[event.topic]
        topic.numbers.popleft()
        topic.size -= len(event.payload)
        if not topic.numbers:
            del self._topics[event.topic]
        self._messages -= 1
        self._bytes -= len(event.payload)
        return event

    def _drop_oldest(self, topic: _Topic) -> None:
        self._take(topic.numbers[0])
        self._counters.inbound_dropped += 1
