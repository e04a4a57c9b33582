"""A link whose messages are lost, doubled, late, out of order and cut off, over a real link to a real broker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from flexspec_mq.errors import FlexSpecError, LinkDown, PublishRefused
from flexspec_mq.transport.base import Inbound, LinkCounters, LinkEvent, LinkSettings
from flexspec_mq.transport.link import Link, LinkFactory
from lab.testbed.faults import (
    Cut,
    Direction,
    Drop,
    Duplicate,
    Fault,
    Hop,
    Scope,
    through,
)

_MOST_UNDERWAY = 4096


@dataclass(slots=True)
class Late:
    """Holds a share of the messages back by up to `within` seconds, so that newer ones overtake them."""

    rate: float
    rng: random.Random
    within: float
    hits: int = field(default=0, init=False)

    def arrivals(self, hop: Hop) -> Sequence[float]:  # noqa: ARG002  the interface of all faults
        """The message, now or later."""
        if self.rng.random() >= self.rate:
            return (0.0,)
        self.hits += 1
        return (self.rng.uniform(0.0, self.within),)


class Weather:
    """All that goes wrong on one link, and how often it did.

    Args:
        rng: decides.
        rate: share of the messages for each of the common faults.
        cut_every: messages up from one lost connection to the next.

    Attributes:
        messages: messages that came to the link, before any fault.
        overtaken: messages that arrived after a newer one of their direction.
        overflow: late copies thrown away because too many were under way.
        lost_late: late copies that the link could not publish any more.
    """

    def __init__(self, rng: random.Random, *, rate: float = 0.04, cut_every: int = 1500) -> None:
        self.drop = Drop(rate, rng)
        self.near = Duplicate(rate, rng, within=0.3)
        self.far = Duplicate(rate / 4, rng, within=8.0)
        self.late = Late(2 * rate, rng, 0.4)
        self.cut = Cut(cut_every, Scope(direction=Direction.UP))
        self.messages = 0
        self.overtaken = 0
        self.overflow = 0
        self.lost_late = 0
        self._newest = dict.fromkeys(Direction, 0)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """In the order in which they act."""
        return (self.cut, self.drop, self.near, self.far, self.late)

    def arrivals(self, hop: Hop) -> list[float]:
        """Seconds after which copies of a message arrive."""
        self.messages += 1
        return through(self.faults, hop)

    def arrived(self, direction: Direction, number: int) -> None:
        """Note that message `number` of a direction got through."""
        self.overtaken += number < self._newest[direction]
        self._newest[direction] = max(number, self._newest[direction])

    def counts(self) -> dict[str, int]:
        """For the report."""
        return {
            "messages": self.messages,
            "dropped": self.drop.hits,
            "duplicated": self.near.hits + self.far.hits,
            "delayed": self.late.hits,
            "overtaken": self.overtaken,
            "connections_cut": self.cut.hits,
            "late_copies_lost": self.lost_late + self.overflow,
        }


def stormy(connect: LinkFactory, weather: Weather) -> LinkFactory:
    """A factory of links that go through `weather`."""

    @asynccontextmanager
    async def run(settings: LinkSettings) -> AsyncIterator[Link]:
        async with connect(settings) as inner, asyncio.TaskGroup() as group:
            link = _StormyLink(inner, settings.client_id, weather, group)
            try:
                yield cast("Link", link)  # as far as daemons use one
            finally:
                link.end()

    def make(settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        return run(settings)

    return make


class _StormyLink:
    """A `Link` around another."""

    def __init__(self, inner: Link, client_id: str, weather: Weather, group: asyncio.TaskGroup) -> None:
        self._link = inner
        self.wait_up, self.reconnect = inner.wait_up, inner.reconnect
        self.subscribe, self.unsubscribe = inner.subscribe, inner.unsubscribe
        self._client_id = client_id
        self._weather = weather
        self._group = group
        self._underway: set[asyncio.Task[None]] = set()
        self._numbers = dict.fromkeys(Direction, 0)
        # Bounded by the inner link's own queue and `_MOST_UNDERWAY` late copies: it is read without pause.
        self._inbound: asyncio.Queue[LinkEvent | FlexSpecError] = asyncio.Queue()

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    @property
    def counters(self) -> LinkCounters:
        return self._link.counters

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry: float | None = None
    ) -> None:
        number = self._next(Direction.UP)
        for after in sorted(self._arrivals(Direction.UP, topic, payload)):
            if after > 0.0:
                self._later(self._publish_late(after, number, (topic, payload), (qos, retain, expiry)))
            else:
                self._weather.arrived(Direction.UP, number)
                await self._link.publish(topic, payload, qos=qos, retain=retain, expiry=expiry)

    async def events(self) -> AsyncIterator[LinkEvent]:
        self._later(self._read())
        while True:
            event = await self._inbound.get()
            if isinstance(event, FlexSpecError):
                raise event
            yield event

    def end(self) -> None:
        """Give up what is still under way."""
        for task in self._underway:
            task.cancel()

    def _next(self, direction: Direction) -> int:
        self._numbers[direction] += 1
        return self._numbers[direction]

    def _arrivals(self, direction: Direction, topic: str, payload: bytes) -> list[float]:
        return self._weather.arrivals(Hop(direction, self._client_id, topic, payload, self._link.reconnect))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._underway) >= _MOST_UNDERWAY:
            self._weather.overflow += 1
            work.close()
            return
        task = self._group.create_task(work)
        self._underway.add(task)
        task.add_done_callback(self._underway.discard)

    async def _publish_late(
        self, after: float, number: int, message: tuple[str, bytes], how: tuple[int, bool, float | None]
    ) -> None:
        await asyncio.sleep(after)
        qos, retain, expiry = how
        self._weather.arrived(Direction.UP, number)
        try:
            await self._link.publish(*message, qos=qos, retain=retain, expiry=expiry)
        except (LinkDown, PublishRefused):
            self._weather.lost_late += 1

    async def _read(self) -> None:
        try:
            async for event in self._link.events():
                if not isinstance(event, Inbound):
                    self._inbound.put_nowait(event)
                    continue
                number = self._next(Direction.DOWN)
                for after in self._arrivals(Direction.DOWN, event.topic, event.payload):
                    if after > 0.0:
                        self._later(self._deliver_late(after, number, event))
                    else:
                        self._deliver(number, event)
        except FlexSpecError as error:  # handed to whoever reads the events
            self._inbound.put_nowait(error)

    async def _deliver_late(self, after: float, number: int, event: Inbound) -> None:
        await asyncio.sleep(after)
        self._deliver(number, event)

    def _deliver(self, number: int, event: Inbound) -> None:
        self._weather.arrived(Direction.DOWN, number)
        self._inbound.put_nowait(event)
