"""A link around another one: the base of those that watch, filter or disturb what goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flexspec_mq.transport.base import Link, LinkCounters, LinkEvent


class ForwardingLink:
    """A `Link` that passes everything on to another; override what shall be different.

    Args:
        link: the other one, whose life is the business of whoever made it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def is_up(self) -> bool:
        """See `Link`."""
        return self._link.is_up

    @property
    def counters(self) -> LinkCounters:
        """See `Link`."""
        return self._link.counters

    async def wait_up(self, timeout: float | None = None) -> None:
        """See `Link`."""
        await self._link.wait_up(timeout)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry: float | None = None
    ) -> None:
        """See `Link`."""
        await self._link.publish(topic, payload, qos=qos, retain=retain, expiry=expiry)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """See `Link`."""
        await self._link.subscribe(topic_filter, qos)

    async def unsubscribe(self, topic_filter: str) -> None:
        """See `Link`."""
        await self._link.unsubscribe(topic_filter)

    async def events(self) -> AsyncIterator[LinkEvent]:
        """See `Link`."""
        async for event in self._link.events():
            yield event

    def reconnect(self, reason: str) -> None:
        """See `Link`."""
        self._link.reconnect(reason)
