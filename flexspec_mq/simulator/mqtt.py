"""A device's MQTT connection in simulated time: packets of every quality of service, and connections that break.

The broker stands next to the worker: a constant delay. It keeps a device's session while the device is away, as a
node asks it to: what was sent at QoS 1 and not acknowledged comes again with the next connection, what was sent at
QoS 0 is lost. A device knows a connection for dead as `transport` does: by a publish that is not acknowledged in
time, or by silence of twice the keepalive. Its own messages are never sent by a later connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Protocol

import msgspec

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.link.impairment import Impairment
from flexspec_mq.link.profiles import LinkPlan
from flexspec_mq.protocol.effects import Send
from flexspec_mq.simulator.clock import SimulatedClock
from flexspec_mq.simulator.tcp import End, connection
from flexspec_mq.simulator.way import Way, WayUse
from flexspec_mq.simulator.worker import VERSION
from flexspec_mq.transport.base import LinkSettings, Subscription
from schemas.messages import Close, Draft, Error, Open, Poll, Verdict

ACK = 4
"""Bytes of PUBACK, PUBREC, PUBREL and PUBCOMP that say that all is well."""
_LONG = 128
"""Bytes after which the length of a packet takes one byte more."""
_SYN, _CONNECT, _CONNACK, _SUBSCRIBE, _SUBACK, _BIRTH, _PING = 8, 73, 11, 20, 6, 180, 2
"""Bytes beside TCP's headers: those of a SYN are options."""


def publish_size(topic: str, payload: int, qos: int, expiry: float | None) -> int:
    """Bytes of a PUBLISH.

    Args:
        topic: of it.
        payload: bytes.
        qos: 0 to 2.
        expiry: seconds, whole ones are sent; None sends none.
    """
    rest = 2 + len(topic) + (2 if qos else 0) + (1 if expiry is None else 6) + payload
    return 1 + (1 if rest < _LONG else 2 if rest < _LONG**2 else 3) + rest


class Traffic(msgspec.Struct):
    """Payload of MQTT, both ways.

    Attributes:
        sent, received: messages.
        up, down: bytes.
        qos: messages that the device published, by quality of service.
        breaks: connections that broke.
    """

    sent: int = 0
    received: int = 0
    up: int = 0
    down: int = 0
    breaks: int = 0
    qos: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])


class Device(Protocol):
    """The end of a channel that publishes drafts."""

    @property
    def name(self) -> str:
        """On topics."""
        ...

    def receive(self, message: Verdict | Error) -> None:
        """A message has come."""
        ...

    def link_up(self) -> None:
        """The broker is reachable."""
        ...

    def link_down(self) -> None:
        """The broker is out of reach."""
        ...


class Worker(Protocol):
    """Who gets them."""

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        ...


class MqttChannel:
    """A `Channel` over a broker and a link.

    Args:
        clock: of the simulation.
        device: its messages go up, and it is told what happens.
        worker: gets them.
        plan: of the link; None is loopback.
        broker: seconds that a message takes from one side of the broker to the worker, or back.
        rng: of waits between attempts to connect.
        subscribed: quality of service at which verdicts are delivered at most; None is that of an edge node.

    Attributes:
        traffic: since it was reset; replace it to begin anew.
        up, down: the ways.
        is_up: whether the device is connected.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        device: Device,
        worker: Worker,
        plan: LinkPlan | None,
        broker: float,
        rng: random.Random,
        *,
        subscribed: int | None = None,
    ) -> None:
        self.traffic = Traffic()
        self.up, self.down = Way(clock, up=True), Way(clock, up=False)
        self.is_up = False
        self._clock = clock
        self._device = device
        self._worker = worker
        self._plan = plan
        self._broker = broker
        self._rng = rng
        self._settings = LinkSettings(client_id=f"e-{device.name}")
        topic = topics.verdict_topic(device.name)
        self._subscribed = Subscription(topic).qos if subscribed is None else subscribed
        self._verdicts = topic
        self._codec = Codec()
        self._number = 0
        self._here, self._there = connection(clock, self.up, self.down)
        self._unanswered: dict[int, float] = {}  # publishes of ours
        self._kept: dict[int, tuple[Verdict | Error, int]] = {}  # at the broker, until they are acknowledged
        self._looks = False
        self._attempts = 0
        self._lives = 0
        self.seek(0.0 if plan is None else plan.begins_s)

    def seek(self, time: float) -> None:
        """Have the channel's time be `time` (seconds) from now on, as `NetnsLink.seek` does."""
        if self._plan is None:
            return
        plan = msgspec.structs.replace(self._plan, begins_s=time)
        self.up.set(Impairment(plan, "up"), time)
        self.down.set(Impairment(plan, "down"), time)

    def begin(self) -> None:
        """Count anew."""
        self.traffic = Traffic()
        self.up.use, self.down.use = WayUse(), WayUse()

    # Up

    def send(self, send: Send) -> None:
        """Publish a message of the device's machine; it is lost while there is no connection."""
        if not self.is_up:
            return
        payload = self._codec.encode(send.message)
        if send.to_worker is None:
            topic, version = topics.open_topic(VERSION, self._device.name), VERSION
        else:
            topic, version = topics.draft_topic(send.to_worker, self._device.name), None
        qos = send.qos
        self.traffic.sent += 1
        self.traffic.up += len(payload)
        self.traffic.qos[qos] += 1
        expiry = None if send.expiry is None else ceil(send.expiry)
        forward = partial(
            self._clock.at,
            self._broker,
            partial(self._worker.receive, self._device.name, send.message, min(qos, 1), version),
        )
        self._publish(qos, publish_size(topic, len(payload), qos, expiry), forward)

    def _publish(
        self, qos: int, size: int, forward: Callable[[], None], known: Callable[[], None] | None = None
    ) -> None:
        """Publish; `known` is called when the device knows that the broker has it."""
        here, there = self._here, self._there
        self._watch()
        if qos == 0:
            here.send(size, forward)
            return
        number = self._next()
        self._unanswered[number] = self._clock.now

        def answered() -> None:
            self._unanswered.pop(number, None)
            if known is not None:
                known()

        def taken() -> None:
            if qos == 1:
                there.send(ACK, answered)
                forward()
            else:
                there.send(ACK, lambda: here.send(ACK, released))

        def released() -> None:
            there.send(ACK, answered)
            forward()

        here.send(size, taken)

    # Down

    def answer(self, message: Verdict | Error, qos: int) -> None:
        """The worker has published a message for the device."""
        self._clock.at(self._broker, partial(self._forward, message, min(qos, self._subscribed)))

    def _forward(self, message: Verdict | Error, qos: int) -> None:
        if qos:
            number = self._next()
            self._kept[number] = message, qos
            self._deliver(message, qos, number)
        else:
            self._deliver(message, 0, 0)

    def _deliver(self, message: Verdict | Error, qos: int, number: int) -> None:
        here, there = self._here, self._there
        payload = len(self._codec.encode(message))

        def known() -> None:
            self._kept.pop(number, None)

        def arrived() -> None:
            self.traffic.received += 1
            self.traffic.down += payload
            self._device.receive(message)

        def taken() -> None:
            if qos == 1:
                here.send(ACK, known)
                arrived()
            elif qos == 2:
                here.send(ACK, lambda: there.send(ACK, released))
            else:
                arrived()

        def released() -> None:
            here.send(ACK, known)
            arrived()

        there.send(publish_size(self._verdicts, payload, qos, None), taken)

    def _next(self) -> int:
        self._number += 1
        return self._number

    # Connections

    def connect(self) -> None:
        """Try to connect now, and again until it succeeds."""
        self._lives += 1
        self._here, self._there = connection(self._clock, self.up, self.down)
        self._clock.at(self._settings.connect_timeout, partial(self._fail, self._lives))
        here, there = self._here, self._there
        there.interactive = True  # what acknowledges a SYN is a SYN

        def opened() -> None:
            there.interactive = False
            here.send(_CONNECT, lambda: there.send(_CONNACK, accepted))

        def accepted() -> None:
            for number, (message, qos) in list(self._kept.items()):
                self._deliver(message, qos, number)
            here.send(_SUBSCRIBE, lambda: there.send(_SUBACK, subscribed))

        def subscribed() -> None:
            self._publish(1, _BIRTH, _nothing, self._mark_up)

        here.send(_SYN, lambda: there.send(_SYN, opened))

    def _mark_up(self) -> None:
        self.is_up = True
        self._attempts = 0
        self._device.link_up()

    def _fail(self, life: int) -> None:
        """An attempt has taken too long."""
        if self.is_up or life != self._lives:
            return
        self._close(self._here, self._there)
        self._attempts += 1
        settings = self._settings
        bound = min(settings.backoff_max, settings.backoff * 2.0 ** (self._attempts - 1))
        self._lives += 1
        self._clock.at(self._rng.uniform(0.0, bound), self.connect)

    def _break(self) -> None:
        self.is_up = False
        self.traffic.breaks += 1
        self._close(self._here, self._there)
        self._device.link_down()
        self.connect()

    def _close(self, *ends: End) -> None:
        self._unanswered.clear()
        for end in ends:
            end.closed = True

    def _watch(self) -> None:
        if not self._looks:
            self._looks = True
            self._clock.at(self._settings.publish_timeout, self._look)

    def _look(self) -> None:
        """Is the connection dead? Ask, if nothing was heard for long."""
        self._looks = False
        if not self.is_up:
            return
        settings, now = self._settings, self._clock.now
        oldest, silent = min(self._unanswered.values(), default=now), now - self._here.heard
        if now - oldest >= settings.publish_timeout or silent >= 2 * settings.keepalive:
            self._break()
            return
        if silent >= settings.keepalive:
            here, there = self._here, self._there
            here.send(_PING, lambda: there.send(_PING, _nothing))
        self._looks = True
        # A publish is given up within a fifth of a second after its time.
        self._clock.at(max(0.2, oldest + settings.publish_timeout - now), self._look)


def _nothing() -> None:
    """The broker has a message that nobody waits for."""
