"""An MQTT broker inside the process, for tests: the interface and the failures of a real one.

It knows what the project relies on: wildcards, ``$share`` round robin that neither sticks nor knows load,
retained messages, wills, message expiry, persistent sessions, session takeover and outages. A share is no queue, as in
real brokers: a persistent member that is away keeps getting its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

from paho.mqtt.client import topic_matches_sub

from flexspec_mq.errors import LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    Inbound,
    LinkSettings,
    Outbound,
    Subscription,
)
from flexspec_mq.transport.filters import split_share
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.properties import packed, publish_properties
from lab.testbed.faults import Direction, Fault, Hop, through

MAX_PAYLOAD = 262_144


@dataclass(slots=True)
class _Stored:
    message: Outbound
    dies: float | None


@dataclass(slots=True)
class _Session:
    """State that the broker holds for a client id.

    Attributes:
        link: None while the client is away.
        offline: messages of QoS ≥ 1 for a client that is away.
        forgotten_at: when a persistent session ends; None while the client is connected.
    """

    link: MemoryLink | None
    filters: dict[str, int] = field(default_factory=dict)
    offline: list[_Stored] = field(default_factory=list)
    forgotten_at: float | None = None


class MemoryBroker:
    """Connects the links made by its `link`. All calls belong to one event loop.

    Attributes:
        faults: act on every hop, in this order; change it at will.
        refused: client ids that are turned away for good.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.refused: set[str] = set()
        self.running = asyncio.Event()
        self.running.set()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, _Stored] = {}
        self._turns: dict[str, int] = {}

    @asynccontextmanager
    async def link(self, settings: LinkSettings) -> AsyncIterator[Link]:
        """Run one link. Has the shape of `LinkFactory`."""
        link = MemoryLink(self, settings)
        async with link.supervising(link.connect_loop()):
            try:
                yield link
            finally:
                link.lose("the link was closed")

    def stop(self, *, forget: bool = False) -> None:
        """Go away: every connection is lost, and with `forget` all that was stored, as with ``kill -9``."""
        for session in list(self._sessions.values()):
            if session.link is not None:
                session.link.lose("the broker went away", will=not forget)
        self.running.clear()
        if forget:
            self._sessions.clear()
            self._retained.clear()

    def start(self) -> None:
        """Come back after `stop`."""
        self.running.set()

    def cut(self, client_id: str, reason: str = "connection cut") -> None:
        """Lose one client's connection, if it has one. Its link connects again by itself."""
        session = self._sessions.get(client_id)
        if session is not None and session.link is not None:
            session.link.lose(reason)

    def connected(self) -> list[str]:
        """Client ids that are connected now."""
        return [name for name, session in self._sessions.items() if session.link is not None]

    def retained(self, topic: str) -> bytes | None:
        """The payload retained on `topic`."""
        stored = self._retained.get(topic)
        return stored.message.payload if stored is not None and self._alive(stored) else None

    def attach(self, link: MemoryLink) -> None:
        """Connect `link`; an older connection of its client id is lost.

        Raises:
            LinkRefused: its client id is in `refused`.
        """
        name = link.settings.client_id
        if name in self.refused:
            raise LinkRefused(f"the broker refuses the client {name!r}")
        old = self._sessions.get(name)
        if old is not None and old.link is not None:
            old.link.lose_to_another()
            old = self._sessions.get(name)
        if old is not None and old.forgotten_at is not None and old.forgotten_at <= time.monotonic():
            old = None
        session = _Session(link) if old is None or link.settings.session_expiry == 0 else old
        session.link, session.forgotten_at = link, None
        self._sessions[name] = session

    def detach(self, link: MemoryLink, will: Outbound | None) -> None:
        """Disconnect `link` and publish `will`."""
        name = link.settings.client_id
        session = self._sessions.get(name)
        if session is None or session.link is not link:
            return
        session.link = None
        if link.settings.session_expiry > 0:
            session.forgotten_at = time.monotonic() + link.settings.session_expiry
        else:
            del self._sessions[name]
        if will is not None:
            self.route(will)

    def send(self, client_id: str, message: Outbound) -> None:
        """Take a message from a client.

        Raises:
            PublishRefused: too large, or nobody subscribes (QoS ≥ 1, not retained).
        """
        if len(message.payload) > MAX_PAYLOAD:
            raise PublishRefused(
                f"{len(message.payload)} bytes are more than the broker takes", reason_code=PACKET_TOO_LARGE
            )
        if message.qos > 0 and not message.retain and not any(self._subscribers(message.topic)):
            raise PublishRefused(f"nobody subscribes to {message.topic}", reason_code=NO_SUBSCRIBERS)
        hop = Hop(Direction.UP, client_id, message.topic, message.payload, self.cut)
        for delay in through(self.faults, hop):
            self._later(delay, self._arrive, message)

    def subscribe(self, link: MemoryLink, wanted: Subscription) -> None:
        """Add a filter to the session of `link` and send what is retained under it."""
        session = self._sessions.get(link.settings.client_id)
        if session is None or session.link is not link:  # a fault cut it a moment ago
            return
        session.filters[wanted.filter] = wanted.qos
        if split_share(wanted.filter)[0] is not None:
            return
        for topic, stored in list(self._retained.items()):
            if topic_matches_sub(wanted.filter, topic) and self._alive(stored):
                self._deliver(link.settings.client_id, stored, wanted.qos, retain=True)

    def unsubscribe(self, link: MemoryLink, topic_filter: str) -> None:
        """Take a filter from the session of `link`."""
        self._sessions[link.settings.client_id].filters.pop(topic_filter, None)

    def flush(self, link: MemoryLink) -> None:
        """Deliver what waited while the client was away."""
        session = self._sessions[link.settings.client_id]
        waiting, session.offline = session.offline, []
        for stored in waiting:
            if self._alive(stored):
                self._deliver(link.settings.client_id, stored, stored.message.qos, retain=False)

    def route(self, message: Outbound) -> None:
        """Store a retained message and give copies to all who subscribe."""
        dies = None if message.expiry is None else time.monotonic() + message.expiry
        stored = _Stored(message, dies)
        if message.retain:
            self._retained.pop(message.topic, None)
            if message.payload:
                self._retained[message.topic] = stored
        for client_id, qos in self._subscribers(message.topic, take_turn=True):
            self._deliver(client_id, stored, qos, retain=False)

    def _arrive(self, message: Outbound) -> None:
        if self.running.is_set():  # else it was under way when the broker went
            self.route(message)

    def _subscribers(self, topic: str, *, take_turn: bool = False) -> Iterator[tuple[str, int]]:
        """Who gets a message on `topic`, and the highest QoS: each session once, one member per share."""
        shares: dict[str, list[tuple[str, int]]] = {}
        plain: dict[str, int] = {}
        now = time.monotonic()
        for client_id, session in list(self._sessions.items()):
            if session.forgotten_at is not None and session.forgotten_at <= now:
                del self._sessions[client_id]
                continue
            for topic_filter, qos in session.filters.items():
                group, bare = split_share(topic_filter)
                if not topic_matches_sub(bare, topic):
                    continue
                if group is not None:
                    shares.setdefault(topic_filter, []).append((client_id, qos))
                else:
                    plain[client_id] = max(qos, plain.get(client_id, 0))
        chosen = []
        for share, members in shares.items():
            turn = self._turns.get(share, 0)
            chosen.append(members[turn % len(members)])
            if take_turn:
                self._turns[share] = turn + 1
        return chain(plain.items(), chosen)

    def _deliver(self, client_id: str, stored: _Stored, qos: int, *, retain: bool) -> None:
        message = stored.message
        qos = min(qos, message.qos)
        session = self._sessions.get(client_id)
        if session is None:  # a fault cut it a moment ago
            return
        link = session.link
        if link is None:
            if qos == 0:
                return
            session.offline.append(_Stored(replace(message, qos=qos), stored.dies))
            return
        hop = Hop(Direction.DOWN, client_id, message.topic, message.payload, self.cut)
        properties = packed(publish_properties(message)) if message.correlation or message.user else b""
        inbound = Inbound(message.topic, message.payload, qos, retain, properties)
        for delay in through(self.faults, hop):
            self._later(delay, link.receive, link.generation, inbound)

    def _alive(self, stored: _Stored) -> bool:
        return stored.dies is None or stored.dies > time.monotonic()

    @staticmethod
    def _later(delay: float, call: Callable[..., None], *args: object) -> None:
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, call, *args)
        else:
            call(*args)


class MemoryLink(Link):
    """A link to a `MemoryBroker`. Made by `MemoryBroker.link`.

    Attributes:
        generation: counts its connections.
    """

    def __init__(self, broker: MemoryBroker, settings: LinkSettings) -> None:
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
        self._broker.attach(self)
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
            self._mark_up()
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
        if self.is_up:
            self._broker.subscribe(self, Subscription(topic_filter, qos))

    async def _unsubscribe(self, topic_filter: str) -> None:
        if self.is_up:
            self._broker.unsubscribe(self, topic_filter)

    def reconnect(self, reason: str) -> None:
        """Give up this connection for a new one at once. While down nothing is waited for but the broker itself."""
        if self.is_up:
            self.lose(reason)
