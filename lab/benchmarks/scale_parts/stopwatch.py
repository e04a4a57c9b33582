"""Times the rounds of an edge at its link, in ignorance of what the edge makes of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flexspec_mq.codec import Codec
from flexspec_mq.transport.base import Inbound, Link, LinkEvent, LinkSettings
from flexspec_mq.transport.forwarding import ForwardingLink
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import Draft, Open, Verdict

_MOST = 1024
"""Batches remembered; one that is never answered must not stay for ever."""


class Stopwatch:
    """A `LinkFactory` whose links are timed.

    Attributes:
        rounds: of each verdict with tokens: when it came, and seconds since the batch that it answers was handed to
            the link for the first time. It takes edges with one batch in flight.
    """

    def __init__(self) -> None:
        self.rounds: list[tuple[float, float]] = []
        self._codec = Codec()
        self._sent: dict[int, float] = {}

    @asynccontextmanager
    async def link(self, settings: LinkSettings) -> AsyncIterator[Link]:
        """A real link with a stopwatch."""
        async with mqtt_link(settings) as inner:
            yield _TimedLink(inner, self)

    def sent(self, payload: bytes) -> None:
        """A message is about to be published."""
        message = self._codec.decode(payload)
        if isinstance(message, Open | Draft):
            self._sent.setdefault(message.session, time.monotonic())
            if len(self._sent) > _MOST:
                del self._sent[next(iter(self._sent))]

    def received(self, payload: bytes) -> None:
        """A message has come."""
        message = self._codec.decode(payload)
        if isinstance(message, Verdict) and message.tokens:
            began = self._sent.pop(message.session, None)
            if began is not None:
                now = time.monotonic()
                self.rounds.append((now, now - began))


class _TimedLink(ForwardingLink):
    """A `Link` around another."""

    def __init__(self, inner: Link, watch: Stopwatch) -> None:
        super().__init__(inner)
        self._watch = watch

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry: float | None = None
    ) -> None:
        if topic.startswith(("f1/d/", "f1/o/")):
            self._watch.sent(payload)
        await self._link.publish(topic, payload, qos=qos, retain=retain, expiry=expiry)

    async def events(self) -> AsyncIterator[LinkEvent]:
        async for event in self._link.events():
            if isinstance(event, Inbound) and event.topic.startswith("f1/v/"):
                self._watch.received(event.payload)
            yield event
