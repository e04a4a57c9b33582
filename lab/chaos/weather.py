"""A link whose messages are lost, doubled, late and out of order while there is a storm, over a real link."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from flexspec_mq.errors import FlexSpecError, LinkDown, PublishRefused
from flexspec_mq.transport.base import Inbound, LinkCounters, LinkEvent, LinkSettings
from flexspec_mq.transport.link import Link, LinkFactory

_MOST_UNDERWAY = 4096
_NEAR, _FAR = 0.3, 8.0
"""Seconds within which a copy comes after the message: of most, and of a quarter as many."""
_LATE = 0.4
"""Seconds for which a message that is late is held back at most, so that newer ones overtake it."""


class Weather:
    """Fate of each message.

    Args:
        rng: decides.

    Attributes:
        rate: share of the messages that are lost; as many are doubled, and twice as many late.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rate = 0.0
        self._rng = rng

    def arrivals(self) -> list[float]:
        """Seconds after which each copy of a message arrives; none at all is a loss."""
        rng, rate = self._rng, self.rate
        if not rate:
            return [0.0]
        if rng.random() < rate:
            return []
        copies = [0.0]
        copies += [rng.uniform(0.0, _NEAR)] if rng.random() < rate else []
        copies += [rng.uniform(0.0, _FAR)] if rng.random() < rate / 4 else []
        return sorted(at + (rng.uniform(0.0, _LATE) if rng.random() < 2 * rate else 0.0) for at in copies)


def stormy(connect: LinkFactory, weather: Weather) -> LinkFactory:
    """A factory of links that go through `weather`."""

    @asynccontextmanager
    async def run(settings: LinkSettings) -> AsyncIterator[Link]:
        async with connect(settings) as inner, asyncio.TaskGroup() as group:
            link = _StormyLink(inner, weather, group)
            try:
                yield cast("Link", link)  # as far as daemons use one
            finally:
                link.end()

    def make(settings: LinkSettings) -> AbstractAsyncContextManager[Link]:
        return run(settings)

    return make


class _StormyLink:
    """A `Link` around another."""

    def __init__(self, inner: Link, weather: Weather, group: asyncio.TaskGroup) -> None:
        self._link = inner
        self._weather = weather
        self._group = group
        self._inbound: asyncio.Queue[LinkEvent | FlexSpecError] = asyncio.Queue()
        self._underway: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    @property
    def counters(self) -> LinkCounters:
        """Counters of the link itself."""
        return self._link.counters

    async def publish(self, topic: str, payload: bytes, **how: Any) -> None:
        """Publish it, or not, or twice; late copies are lost where the link is down."""
        for after in self._weather.arrivals():
            if after > 0.0:
                self._later(self._publish_late(after, topic, payload, how))
            else:
                await self._link.publish(topic, payload, **how)

    async def events(self) -> AsyncIterator[LinkEvent]:
        """Events of the link; messages among them as the weather has it."""
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

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._underway) >= _MOST_UNDERWAY:
            work.close()
            return
        task = self._group.create_task(work)
        self._underway.add(task)
        task.add_done_callback(self._underway.discard)

    async def _publish_late(self, after: float, topic: str, payload: bytes, how: dict[str, Any]) -> None:
        await asyncio.sleep(after)
        try:
            await self._link.publish(topic, payload, **how)
        except (LinkDown, PublishRefused):
            return

    async def _read(self) -> None:
        try:
            async for event in self._link.events():
                for after in self._weather.arrivals() if isinstance(event, Inbound) else (0.0,):
                    if after > 0.0:
                        self._later(self._deliver_late(after, event))
                    else:
                        self._inbound.put_nowait(event)
        except FlexSpecError as error:  # handed to whoever reads the events
            self._inbound.put_nowait(error)

    async def _deliver_late(self, after: float, event: LinkEvent) -> None:
        await asyncio.sleep(after)
        self._inbound.put_nowait(event)
