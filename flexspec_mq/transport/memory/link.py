"""The link to a `MemoryBroker`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import NO_SUBSCRIBERS, Inbound, LinkSettings, Outbound, Subscription
from flexspec_mq.transport.state import LinkState

if TYPE_CHECKING:
    from flexspec_mq.transport.base import Will


class _Broker(Protocol):
    """What a link asks of its broker; `MemoryBroker` says what each call does."""

    running: asyncio.Event

    def attach(self, link: MemoryLink) -> bool: ...
    def detach(self, link: MemoryLink, will: Will | None) -> None: ...
    def send(self, client_id: str, message: Outbound) -> None: ...
    def subscribe(self, link: MemoryLink, wanted: Subscription) -> None: ...
    def unsubscribe(self, link: MemoryLink, topic_filter: str) -> None: ...
    def flush(self, link: MemoryLink) -> None: ...


class MemoryLink(LinkState):
    """A link to a `MemoryBroker`. Made by `MemoryBroker.link`.

    Attributes:
        generation: counts its connections.
    """

    def __init__(self, broker: _Broker, settings: LinkSettings) -> None:
        super().__init__(settings)
        self._broker = broker
        self.generation = 0
        self._attached = False
        self._replaced = False
        self._lost = asyncio.Event()

    async def connect_loop(self) -> None:
        """Connect, wait for the loss of the connection, connect again."""
        while True:
            try:
                async with asyncio.timeout(self.settings.give_up_after):
                    await self._broker.running.wait()
                self._lost.clear()
                self._connect()
            except TimeoutError:
                self._fail(LinkError("the in-memory broker is not running", hint="start it"))
                return
            except LinkRefused as refusal:
                self._fail(refusal)
                return
            await self._lost.wait()
            if self._replaced:
                self._fail(self._taken_over())
                return

    def _connect(self) -> None:
        present = self._broker.attach(self)
        self._attached = True
        self.generation += 1
        for topic_filter, qos in list(self.wanted.items()):
            self._broker.subscribe(self, Subscription(topic_filter, qos))
        for message in self.settings.birth():
            try:
                self._broker.send(self.settings.client_id, message)
            except PublishRefused as refusal:
                if refusal.reason_code == NO_SUBSCRIBERS:
                    continue
                raise LinkRefused(f"a birth message was refused: {refusal.message}") from refusal
        if self._attached:  # a fault may have cut the connection on the way here
            self._mark_up(session_present=present)
            self._broker.flush(self)

    def lose(self, reason: str, *, will: bool = True) -> None:
        """Lose the connection: the broker publishes the will."""
        if not self._attached:
            return
        self._attached = False
        self._mark_down(reason)
        self._broker.detach(self, self.settings.will if will else None)
        self._lost.set()

    def lose_to_another(self) -> None:
        """Lose the connection to another one with the same client id, for good."""
        self._replaced = True
        self.lose("another connection took over the client id")

    def leave(self) -> None:
        """Leave in order: the will goes out, and nothing connects again."""
        self.lose("the link was closed")
        self.close()

    def receive(self, generation: int, message: Inbound) -> None:
        """Take a message from the broker; one that was under way when the connection was lost is lost too."""
        if not self._attached or generation != self.generation:
            return
        if self._inbox.wants(message.topic, len(message.payload)):
            self._inbox.put_message(message)

    async def _send(self, message: Outbound) -> None:
        await asyncio.sleep(0)  # as any real link, it lets others run
        self._require_up()
        self._broker.send(self.settings.client_id, message)

    async def _subscribe(self, topic_filter: str, qos: int) -> None:
        if self._is_up:
            self._broker.subscribe(self, Subscription(topic_filter, qos))

    async def _unsubscribe(self, topic_filter: str) -> None:
        if self._is_up:
            self._broker.unsubscribe(self, topic_filter)

    def reconnect(self, reason: str) -> None:
        """Give up this connection for a new one at once. While down nothing is waited for but the broker itself."""
        if self._is_up:
            self.lose(reason)
