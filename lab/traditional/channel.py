"""Channel of the messages: MQTT at QoS 1."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from flexspec_mq.daemon.tasks import ended, running
from flexspec_mq.errors import FlexSpecError, LinkDown
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link

UP, DOWN = "t1/u", "t1/d"
"""Topics: of one device and one target, since one text at a time is enough here."""
PACKET_BYTES = 2**22
"""Largest packet that the broker must take. Five guesses among 49,152 ids are 491,520 bytes of probabilities."""
_PATIENCE = 600
"""Seconds: half a megabyte on a weak uplink takes longer than an acknowledgement or a ping usually may."""
_CONNECTS_WITHIN = 30.0


class MessageChannel(Protocol):
    """Messages to the other side, and from it."""

    def send(self, payload: bytes) -> None:
        """Send, behind what was sent before, and do not wait."""
        ...

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            LinkDown: there is no connection any more.
            LinkError: the broker refused something for good.
        """
        ...


class MqttMessages:
    """Made by `mqtt_channel`. Unacknowledged messages go out again with the next connection: maybe twice."""

    def __init__(self, link: Link, topic: str) -> None:
        self._link = link
        self._topic = topic
        self._inbox: asyncio.Queue[bytes | FlexSpecError] = asyncio.Queue()
        self._publishing: set[asyncio.Task[None]] = set()

    def send(self, payload: bytes) -> None:
        """Publish."""
        task = asyncio.create_task(self._publish(payload), name="publish")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def receive(self) -> bytes:
        """The next message; see `MessageChannel.receive`."""
        found = await self._inbox.get()
        if isinstance(found, FlexSpecError):
            raise found
        return found

    async def read_loop(self) -> None:
        """Take messages from the link, for ever."""
        try:
            async for event in self._link.events():
                if isinstance(event, Inbound):
                    self._inbox.put_nowait(event.payload)
        except FlexSpecError as error:
            self._inbox.put_nowait(error)

    async def close(self) -> None:
        """Give up what is being published."""
        await ended(self._publishing)

    async def _publish(self, payload: bytes) -> None:
        try:
            while True:
                with contextlib.suppress(LinkDown):
                    return await self._link.publish(self._topic, payload, qos=1)
                await self._link.wait_up()
        except FlexSpecError as error:
            self._inbox.put_nowait(error)


@asynccontextmanager
async def mqtt_channel(settings: LinkSettings, *, out: str, into: str) -> AsyncIterator[MqttMessages]:
    """A channel over the broker.

    Args:
        settings: where it is, and who we are there.
        out: topic to publish on.
        into: topic to read.

    Raises:
        LinkError: there is no connection within half a minute.
    """
    own = replace(
        settings,
        subscriptions=(Subscription(into, 1),),
        session_expiry=_PATIENCE,
        keepalive=_PATIENCE,
        publish_timeout=_PATIENCE,
    )
    async with mqtt_link(own) as link:
        await link.wait_up(_CONNECTS_WITHIN)
        channel = MqttMessages(link, out)
        async with running(channel.read_loop(), "read"):
            try:
                yield channel
            finally:
                await channel.close()
