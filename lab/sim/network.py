"""A broker of MQTT 5 as we use it, and connections to it: latency, stalls either way, resets, loss of QoS 0.

A connection is a pipe each way, in order as TCP's. A stalled pipe holds its packets until it goes on, or until either
side takes the silence for the end: so the broker may know of a loss long before the client does, or the other way
around. Packets of QoS 0 may also be lost, doubled or overtaken, as bridges and proxies do to them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from paho.mqtt.client import topic_matches_sub

from flexspec_mq import entropy
from flexspec_mq.daemon.retry import Backoff
from flexspec_mq.errors import LinkDown, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    Inbound,
    LinkSettings,
    Outbound,
)
from flexspec_mq.transport.filters import split_share
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.properties import packed, publish_properties

MAX_PAYLOAD = 262_144
MAX_QUEUED = 1000
"""Messages of QoS 1 that wait for a client that is away; more are dropped."""
_matches = lru_cache(100_000)(topic_matches_sub)
_split = lru_cache(10_000)(split_share)


@dataclass(slots=True)
class Conditions:
    """The network between a machine and the broker.

    Attributes:
        latency: seconds that a packet takes, from least to most.
        loss: share of packets of QoS 0 that are lost, and of those that come twice.
        overtaking: share of packets of QoS 0 that wait up to a second while others pass.
        stalled: whether packets from the machine, and to it, are held up.
    """

    latency: tuple[float, float] = (0.002, 0.02)
    loss: float = 0.0
    overtaking: float = 0.0
    stalled: dict[str, bool] = field(default_factory=lambda: {"up": False, "down": False})


class _Pipe:
    """Either direction of a connection."""

    def __init__(self, connection: Connection, direction: str) -> None:
        self._connection = connection
        self._direction = direction
        self._last = 0.0
        self._held: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def send(self, call: Callable[..., object], *args: Any, qos: int = 1) -> None:
        connection, loop = self._connection, asyncio.get_running_loop()
        conditions, rng = connection.conditions, connection.broker.rng
        times, now = [max(loop.time() + rng.uniform(*conditions.latency), self._last)], loop.time()
        if qos == 0 and conditions.loss and rng.random() < conditions.loss:
            connection.broker.counts["lost"] += 1
            return
        if qos == 0 and conditions.loss and rng.random() < conditions.loss:
            connection.broker.counts["doubled"] += 1
            times.append(now + rng.uniform(0.0, 1.0))
        if qos == 0 and conditions.overtaking and rng.random() < conditions.overtaking:
            connection.broker.counts["overtaken"] += 1
            times[0] = now + rng.uniform(0.0, 1.0)
        else:
            self._last = times[0]
        for at in times:
            loop.call_at(at, self._arrive, call, args)

    def _arrive(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self._connection.conditions.stalled[self._direction] or self._held:
            self._held.append((call, args))
        else:
            call(*args)

    def go_on(self) -> None:
        """Let through what was held up."""
        while self._held and not self._connection.conditions.stalled[self._direction]:
            call, args = self._held.popleft()
            call(*args)


class Connection:
    """A connection, which either side may hold for lost before the other does.

    Attributes:
        lost: set when the client knows that it is lost.
        served: whether the broker holds it for open.
    """

    def __init__(self, broker: SimBroker, link: SimLink, conditions: Conditions) -> None:
        self.broker = broker
        self.link = link
        self.conditions = conditions
        self.up, self.down = _Pipe(self, "up"), _Pipe(self, "down")
        self.lost = asyncio.Event()
        self.reason = ""
        self.served = True
        self.acks: set[asyncio.Future[Any]] = set()

    def client_drops(self, reason: str) -> None:
        """The client holds it for lost; the broker learns of it with its next packet, if any comes through."""
        if self.lost.is_set():
            return
        self.reason = reason
        self.lost.set()
        self.link.down(reason)
        for ack in self.acks:
            if not ack.done():
                ack.set_exception(LinkDown(f"the connection broke: {reason}"))
        self.up.send(self.broker_drops)

    def broker_drops(self, *, will: bool = True) -> None:
        """The broker holds it for lost, and publishes the client's will."""
        if not self.served:
            return
        self.served = False
        self.broker.detached(self, will=will)
        self.down.send(self.client_drops, "the broker closed the connection")

    def reset(self, reason: str) -> None:
        """Both sides see that it is lost."""
        self.client_drops(reason)
        self.broker_drops()

    async def call(self, work: Callable[[], Any], within: float) -> Any:
        """Have the broker do something, and wait for its acknowledgement.

        Raises:
            LinkDown: the connection broke first.
        """
        if self.lost.is_set():
            raise LinkDown("the connection is lost")
        ack: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.acks.add(ack)

        def arrives() -> None:
            if self.served:
                self.down.send(_answer, ack, work())

        self.up.send(arrives)
        try:
            async with asyncio.timeout(within):
                return await ack
        except TimeoutError:
            self.client_drops("no acknowledgement")
            raise LinkDown("no acknowledgement") from None
        finally:
            self.acks.discard(ack)


def _answer(ack: asyncio.Future[Any], result: Any) -> None:
    if not ack.done():
        ack.set_result(result)


@dataclass(slots=True)
class _Stored:
    message: Outbound
    dies: float | None

    def alive(self) -> bool:
        return self.dies is None or self.dies > entropy.now()


@dataclass(slots=True)
class _Session:
    """State that the broker has of a client id.

    Attributes:
        unacked: messages of QoS 1 that were sent, and whose acknowledgement has not come.
    """

    connection: Connection | None
    settings: LinkSettings
    filters: dict[str, int] = field(default_factory=dict)
    waiting: deque[_Stored] = field(default_factory=deque)
    unacked: dict[int, _Stored] = field(default_factory=dict)
    ends_at: float | None = None


class SimBroker:
    """The broker.

    Attributes:
        running: whether it is.
        conditions: conditions of each client id's machine.
        counts: number of packets that the network did something to, by what it did.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.running = True
        self.conditions: dict[str, Conditions] = {}
        self.counts: Counter[str] = Counter()
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, _Stored] = {}
        self._turns: dict[str, int] = {}
        self._number = 0

    def links(self, conditions: Conditions, links: list[SimLink]) -> LinkFactory:
        """A factory of a machine's links, which are noted in `links` as well."""

        @asynccontextmanager
        async def connect(settings: LinkSettings) -> AsyncIterator[Link]:
            link = SimLink(self, settings, conditions)
            links.append(link)
            async with link.supervising(link.connect_loop()):
                try:
                    yield link
                finally:
                    link.leave()

        return connect

    # Its life

    def stop(self, *, forget: bool) -> None:
        """End; with `forget` all that it stored is lost, as where it was killed without persistence."""
        self.running = False
        for session in list(self._sessions.values()):
            if session.connection is not None:
                connection = session.connection
                connection.served = False
                self.detached(connection, will=False)
                connection.down.send(connection.client_drops, "the broker went away")
        if forget:
            self._sessions.clear()
            self._retained.clear()

    def start(self) -> None:
        """Come back."""
        self.running = True

    def reset(self, client_id: str) -> None:
        """Lose a client's connection, if it has one."""
        session = self._sessions.get(client_id)
        if session is not None and session.connection is not None:
            session.connection.reset("connection reset")

    def go_on(self, conditions: Conditions) -> None:
        """Let packets through that were held up."""
        for session in list(self._sessions.values()):
            connection = session.connection
            if connection is not None and connection.conditions is conditions:
                connection.up.go_on()
                connection.down.go_on()

    def silent(self, conditions: Conditions) -> list[Connection]:
        """Connections that packets of a machine would go over."""
        return [
            session.connection
            for session in self._sessions.values()
            if session.connection is not None and session.connection.conditions is conditions
        ]

    def retained(self, topic_filter: str) -> dict[str, bytes]:
        """Messages retained on topics of a filter."""
        return {
            topic: stored.message.payload
            for topic, stored in self._retained.items()
            if stored.alive() and _matches(topic_filter, topic)
        }

    def connected(self, client_id: str) -> bool:
        """Whether a client is connected."""
        session = self._sessions.get(client_id)
        return session is not None and session.connection is not None

    # Its clients

    def attach(self, link: SimLink) -> Connection:
        """Take a connection; an older one of its client id is closed."""
        settings = link.settings
        old = self._sessions.get(settings.client_id)
        if old is not None and old.connection is not None:
            connection = old.connection
            connection.served = False
            self.detached(connection, will=True)
            connection.down.send(connection.link.replaced, connection)
            old = self._sessions.get(settings.client_id)
        if old is not None and old.ends_at is not None and old.ends_at <= entropy.now():
            old = None
        made = Connection(self, link, link.conditions)
        session = _Session(made, settings) if old is None or settings.session_expiry == 0 else old
        session.connection, session.settings, session.ends_at = made, settings, None
        self._sessions[settings.client_id] = session
        waiting = [*session.unacked.values(), *session.waiting]
        session.unacked, session.waiting = {}, deque()
        for stored in waiting:
            if stored.alive():
                self._send(session, stored, stored.message.qos, retain=False)
        return made

    def detached(self, connection: Connection, *, will: bool) -> None:
        """A connection is no more."""
        settings = connection.link.settings
        session = self._sessions.get(settings.client_id)
        if session is not None and session.connection is connection:
            session.connection = None
            if settings.session_expiry > 0:
                session.ends_at = entropy.now() + settings.session_expiry
            else:
                del self._sessions[settings.client_id]
        if will and settings.will is not None:
            self.publish(settings.will)

    def subscribe(self, connection: Connection, topic_filter: str, qos: int) -> None:
        """Add a filter, and send what is retained under it."""
        session = self._sessions[connection.link.settings.client_id]
        session.filters[topic_filter] = qos
        if _split(topic_filter)[0] is not None:
            return
        for topic, stored in list(self._retained.items()):
            if _matches(topic_filter, topic) and stored.alive():
                self._send(session, stored, qos, retain=True)

    def unsubscribe(self, connection: Connection, topic_filter: str) -> None:
        """Take a filter away."""
        self._sessions[connection.link.settings.client_id].filters.pop(topic_filter, None)

    def publish(self, message: Outbound) -> int:
        """Take a message; returns the reason code of its acknowledgement."""
        if len(message.payload) > MAX_PAYLOAD:
            return PACKET_TOO_LARGE
        dies = None if message.expiry is None else entropy.now() + message.expiry
        stored = _Stored(message, dies)
        if message.retain:
            self._retained.pop(message.topic, None)
            if message.payload:
                self._retained[message.topic] = stored
        reached = False
        for session, qos in self._subscribers(message.topic):
            reached = True
            self._send(session, stored, qos, retain=False)
        return 0 if reached or message.retain else NO_SUBSCRIBERS

    def _subscribers(self, topic: str) -> Iterator[tuple[_Session, int]]:
        shares: dict[str, list[tuple[_Session, int]]] = {}
        now = entropy.now()
        for client_id, session in list(self._sessions.items()):
            if session.ends_at is not None and session.ends_at <= now:
                del self._sessions[client_id]
                continue
            plain = -1
            for topic_filter, qos in session.filters.items():
                group, bare = _split(topic_filter)
                if not _matches(bare, topic):
                    continue
                if group is not None:
                    shares.setdefault(topic_filter, []).append((session, qos))
                else:
                    plain = max(qos, plain)
            if plain >= 0:
                yield session, plain
        for share, members in shares.items():
            turn = self._turns[share] = self._turns.get(share, -1) + 1
            yield members[turn % len(members)]

    def _send(self, session: _Session, stored: _Stored, most: int, *, retain: bool) -> None:
        message = stored.message
        qos = min(most, message.qos)
        connection = session.connection
        if connection is None:
            if qos and len(session.waiting) < MAX_QUEUED:
                session.waiting.append(_Stored(replace(message, qos=qos), stored.dies))
            return
        properties = packed(publish_properties(message)) if message.correlation or message.user else b""
        inbound = Inbound(message.topic, message.payload, qos, retain, properties)
        if qos == 0:
            connection.down.send(connection.link.receive, connection, inbound, qos=0)
            return
        self._number += 1
        number = self._number
        session.unacked[number] = _Stored(replace(message, qos=qos, retain=False), stored.dies)

        def arrives() -> None:
            connection.link.receive(connection, inbound)
            connection.up.send(lambda: session.unacked.pop(number, None))

        connection.down.send(arrives)


class SimLink(Link):
    """A link to a `SimBroker`.

    Attributes:
        dead: whether its machine lost power: nothing goes in or out any more.
    """

    def __init__(self, broker: SimBroker, settings: LinkSettings, conditions: Conditions) -> None:
        super().__init__(settings)
        self._broker = broker
        self.conditions = conditions
        self._connection: Connection | None = None
        self._replaced = False
        self._at_once = asyncio.Event()
        self.dead = False

    async def connect_loop(self) -> None:
        """Connect, wait for the loss of the connection, connect again."""
        settings = self.settings
        backoff = Backoff(settings.backoff, settings.backoff_max, None, settings.awaited)
        failures = 0
        while not self.dead:
            try:
                connection = await self._connect()
            except LinkRefused as refusal:
                self._fail(refusal)
                return
            except LinkDown as error:
                failures += 1
                self._down_reason = error.message
                self.counters.attempts_failed += 1
                self._at_once.clear()
                try:
                    async with asyncio.timeout(backoff.delay(failures)):
                        await self._at_once.wait()
                except TimeoutError:
                    continue
            else:
                failures = 0
                await connection.lost.wait()
            if self._replaced:
                self._fail(self._taken_over())
                return

    async def _connect(self) -> Connection:
        """Connect, subscribe and publish the birth messages.

        Raises:
            LinkDown: that does not work now.
            LinkRefused: it never will.
        """
        settings, stalled = self.settings, self.conditions.stalled
        await asyncio.sleep(self._broker.rng.uniform(*self.conditions.latency) * 2)
        if any(stalled.values()) or self.dead:
            await asyncio.sleep(settings.connect_timeout)
            raise LinkDown("no answer")
        if not self._broker.running:
            raise LinkDown("connection refused")
        connection = self._connection = self._broker.attach(self)

        def stand() -> None:
            for topic_filter, qos in list(self.wanted.items()):
                self._broker.subscribe(connection, topic_filter, qos)

        await connection.call(stand, settings.connect_timeout)
        for message in settings.birth():
            code = await connection.call(partial(self._broker.publish, message), settings.publish_timeout)
            if code not in (0, NO_SUBSCRIBERS):
                raise LinkRefused(f"a birth message was refused: {code}")
        if connection.lost.is_set():
            raise LinkDown(connection.reason)
        self._mark_up()
        return connection

    def down(self, reason: str) -> None:
        """The connection is lost."""
        self._mark_down(reason)

    def replaced(self, connection: Connection) -> None:
        """Another connection has its client id."""
        if connection.lost.is_set():
            return  # it is this link's other connection
        self._replaced = True
        connection.client_drops("another connection took over the client id")

    def die(self) -> None:
        """The machine loses power: the broker hears no more of it, and it of nobody."""
        self.dead = True
        if (connection := self._connection) is not None:
            self._mark_down("no power")
            connection.reason = "no power"
            connection.lost.set()
            for ack in connection.acks:
                if not ack.done():
                    ack.set_exception(LinkDown("no power"))

    def leave(self) -> None:
        """Disconnect in order."""
        if (connection := self._connection) is not None and not self.dead:
            connection.client_drops("the link was closed")

    def receive(self, connection: Connection, message: Inbound) -> None:
        """Take a message from the broker."""
        if self.dead or connection is not self._connection or connection.lost.is_set():
            return
        if self._inbox.wants(message.topic, len(message.payload)):
            self._inbox.put_message(message)

    async def _send(self, message: Outbound) -> None:
        connection = self._connection
        if connection is None or self.dead:
            raise LinkDown("no power")
        if message.qos == 0:
            await asyncio.sleep(0)
            connection.up.send(self._arrives, connection, message, qos=0)
            return
        code = await connection.call(lambda: self._broker.publish(message), self.settings.publish_timeout)
        if code:
            raise PublishRefused(f"{message.topic}: reason code {code}", reason_code=code)

    def _arrives(self, connection: Connection, message: Outbound) -> None:
        if connection.served:
            self._broker.publish(message)

    async def _subscribe(self, topic_filter: str, qos: int) -> None:
        connection = self._connection
        if self.is_up and connection is not None:
            await connection.call(
                lambda: self._broker.subscribe(connection, topic_filter, qos), self.settings.connect_timeout
            )

    async def _unsubscribe(self, topic_filter: str) -> None:
        connection = self._connection
        if self.is_up and connection is not None:
            await connection.call(
                lambda: self._broker.unsubscribe(connection, topic_filter), self.settings.connect_timeout
            )

    def reconnect(self, reason: str) -> None:
        """Give up this connection for a new one at once."""
        self._at_once.set()
        if self.is_up and self._connection is not None:
            self._connection.client_drops(reason)
