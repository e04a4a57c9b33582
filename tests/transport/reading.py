"""Read a link's events in tests, each with a bound on waiting."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from flexspec_mq.transport.base import (
    Inbound,
    LinkDownEvent,
    LinkEvent,
    LinkSettings,
    LinkUpEvent,
    Subscription,
)
from flexspec_mq.transport.connection import MqttConnection
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.mqtt import MqttLink, mqtt_link

E = TypeVar("E", Inbound, LinkUpEvent, LinkDownEvent)

PATIENCE = 60.0


class Reader:
    """The one consumer of a link's events. Keeps what it skipped."""

    def __init__(self, link: Link) -> None:
        self.seen: list[LinkEvent] = []
        self._events: AsyncIterator[LinkEvent] = link.events()

    async def next(self) -> LinkEvent:
        """The next event."""
        async with asyncio.timeout(PATIENCE):
            event = await anext(self._events)
        self.seen.append(event)
        return event

    async def wait_for(self, kind: type[E]) -> E:
        """The next event of one kind; others are passed over."""
        while True:
            event = await self.next()
            if isinstance(event, kind):
                return event

    async def to_the_end(self) -> None:
        """Read until the iterator ends or raises."""
        async with asyncio.timeout(PATIENCE):
            async for event in self._events:
                self.seen.append(event)

    async def payload(self) -> bytes:
        """The payload of the next message."""
        return (await self.wait_for(Inbound)).payload

    async def payloads(self, count: int) -> list[bytes]:
        """The payloads of the next messages."""
        return [await self.payload() for _ in range(count)]


async def retained(at: LinkSettings, topic_filter: str) -> dict[str, bytes]:
    """Messages that a broker keeps, by topic, as a client of these settings may read them."""
    client = replace(
        at, client_id=f"looks-{time.monotonic_ns()}", subscriptions=(Subscription(topic_filter),)
    )
    found: dict[str, bytes] = {}
    async with mqtt_link(client) as link:
        await link.wait_up(PATIENCE)
        try:
            async with asyncio.timeout(0.3):
                async for event in link.events():
                    if isinstance(event, Inbound):
                        found[event.topic] = event.payload
        except TimeoutError:
            pass
    return found


def connection_of(link: Link) -> MqttConnection:
    """The connection that a link over MQTT has now."""
    assert isinstance(link, MqttLink)
    assert link._connection is not None
    return link._connection


@asynccontextmanager
async def linked(settings: LinkSettings, connect: LinkFactory = mqtt_link) -> AsyncIterator[Link]:
    """A link that is up."""
    async with connect(settings) as link:
        await link.wait_up(PATIENCE)
        yield link
