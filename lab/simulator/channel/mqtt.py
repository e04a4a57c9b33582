"""A device's MQTT connection in simulated time: packets of every quality of service, and connections that break.

The broker stands next to the worker: a constant delay. It keeps a device's session while the device is away, as a
node asks it to: what was sent at QoS 1 and not acknowledged comes again with the next connection, what was sent at
QoS 0 is lost. A device knows a connection for dead as `transport` does: by a publish that is not acknowledged in
time, by silence of twice the keepalive, or by a shorter one (`Silence`) while another connection can be had. Its own
messages are never sent by a later connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from math import ceil, inf
from typing import Protocol

import msgspec

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.protocol.effects import Send
from flexspec_mq.transport.base import LinkSettings, Subscription
from flexspec_mq.transport.silence import Silence
from lab.simulator.channel.packets import (
    BIRTH,
    CONNACK,
    CONNECT,
    PING,
    SUBACK,
    SUBSCRIBE,
    SYN,
    publish,
    publish_size,
)
from lab.simulator.channel.tcp import End, connection
from lab.simulator.channel.way import Ways
from lab.simulator.clock import SimulatedClock
from lab.simulator.worker import VERSION
from lab.testbed.link.profiles import LinkPlan
from schemas.messages import Close, Draft, Error, Open, Poll, Verdict


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


class ChannelDevice(Protocol):
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

    def acknowledged(self, qos: int, seconds: float, size: int) -> None:
        """The broker has a message of so many bytes, so long after it was handed to the link."""
        ...

    def received(self, size: int) -> None:
        """A payload of so many bytes has come."""
        ...


class ChannelWorker(Protocol):
    """Who gets them."""

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        ...


class SimulatedMqtt:
    """A `Channel` over a broker and a link.

    Args:
        clock: clock of the simulation.
        device: sender of what goes up; it is told what happens.
        worker: gets them.
        plan: plan of the link; None is loopback.
        broker: seconds that a message takes from one side of the broker to the worker, or back.
        rng: random numbers of waits between attempts to connect.
        subscribed: quality of service at which verdicts are delivered at most; None is that of an edge node.

    Attributes:
        traffic: since `begin`.
        up, down: the ways.
        is_up: whether the device is connected.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        device: ChannelDevice,
        worker: ChannelWorker,
        plan: LinkPlan | None,
        broker: float,
        rng: random.Random,
        *,
        subscribed: int | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._ways = Ways(clock, plan)
        self.up, self.down = self._ways.up, self._ways.down
        self.is_up = False
        self._clock = clock
        self._device = device
        self._worker = worker
        self._broker = broker
        self._rng = rng
        self._settings = LinkSettings(client_id=f"e-{device.name}")
        topic = topics.verdict_topic(device.name)
        self._subscribed = Subscription(topic).qos if subscribed is None else subscribed
        self._verdicts = topic
        self._codec = Codec()
        self._number = 0
        self._here, self._there = self._ends()
        self._silence = Silence(clock.now)
        self._silence_looks = inf
        self._reaching = False  # another connection is tried, as this one is silent
        self._unanswered: dict[int, float] = {}  # publishes of ours
        self._kept: dict[int, tuple[Verdict | Error, int]] = {}  # at the broker, until they are acknowledged
        self._served = False  # the broker has a connection for the device
        self._looks = False
        self._attempts = 0
        self._lives = 0

    def begin(self, time: float | None) -> None:
        """Count anew, and have the channel's time be `time` (seconds) from now on; None lets it go on."""
        self.traffic = Traffic()
        self._ways.begin()
        if time is not None:
            self._ways.seek(time)

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
        known = partial(self._acknowledged, qos, len(payload), self._clock.now)
        self._publish(qos, publish_size(topic, len(payload), qos, expiry), forward, known)
        if qos == 0:  # it is with the socket
            known()

    def _acknowledged(self, qos: int, size: int, since: float) -> None:
        self._device.acknowledged(qos, self._clock.now - since, size)

    def _publish(self, qos: int, size: int, arrived: Callable[[], None], known: Callable[[], None]) -> None:
        self._watch()
        number, now = self._next(), self._clock.now
        if qos:
            self._unanswered[number] = now
            self._silence.sent_for_ack(size, now)
        else:
            self._silence.sent(size, now)
        self._watch_silence()

        def answered() -> None:
            if self._unanswered.pop(number, None) is not None:
                self._silence.acknowledged(size, self._clock.now - now)
            known()

        publish(self._here, self._there, qos, size, arrived, answered)

    # Down

    def answer(self, message: Verdict | Error, qos: int) -> None:
        """The worker has published a message for the device."""
        self._clock.at(self._broker, partial(self._forward, message, min(qos, self._subscribed)))

    def hear(self, topic: str, size: int) -> None:
        """The broker has a retained message of so many bytes for the device, of no concern to its texts."""
        if self._served:
            arrived = partial(self._device.received, size)
            publish(self._there, self._here, 1, publish_size(topic, size, 1, None), arrived, _nothing)

    def _forward(self, message: Verdict | Error, qos: int) -> None:
        number = self._next()
        if qos:
            self._kept[number] = message, qos
        if self._served:
            self._deliver(message, qos, number)

    def _deliver(self, message: Verdict | Error, qos: int, number: int) -> None:
        payload = len(self._codec.encode(message))

        def arrived() -> None:
            self.traffic.received += 1
            self.traffic.down += payload
            self._device.received(payload)
            self._device.receive(message)

        def known() -> None:
            self._kept.pop(number, None)

        size = publish_size(self._verdicts, payload, qos, None)
        publish(self._there, self._here, qos, size, arrived, known)

    def _next(self) -> int:
        self._number += 1
        return self._number

    # Connections

    def connect(self) -> None:
        """Try to connect now, and again until it succeeds."""
        self._go_on_with(*self._ends())
        self._reach(self._here, self._there, self._introduce)

    def _go_on_with(self, here: End, there: End) -> None:
        self._lives += 1
        self._here, self._there = here, there
        self._clock.at(self._settings.connect_timeout, partial(self._fail, self._lives))

    def _ends(self) -> tuple[End, End]:
        here, there = connection(self._clock, self.up, self.down)
        here.on_data = partial(self._hears, here)
        return here, there

    def _reach(self, here: End, there: End, reached: Callable[[], None]) -> None:
        there.interactive = True  # what acknowledges a SYN is a SYN

        def opened() -> None:
            there.interactive = False
            reached()

        here.send(SYN, lambda: there.send(SYN, opened))

    def _introduce(self) -> None:
        """The connection is there."""
        here, there, began = self._here, self._there, self._clock.now
        self._silence.begin(began)

        def serve() -> None:
            there.send(CONNACK, accepted)
            self._served = True
            for number, (message, qos) in list(self._kept.items()):
                self._deliver(message, qos, number)

        def accepted() -> None:
            self._silence.measured(self._clock.now - began)
            here.send(SUBSCRIBE, lambda: there.send(SUBACK, subscribed))

        def subscribed() -> None:
            self._publish(1, BIRTH, _nothing, self._mark_up)

        here.send(CONNECT, serve)

    def _mark_up(self) -> None:
        self.is_up = True
        self._silence.up()
        self._attempts = 0
        self._device.link_up()

    def _fail(self, life: int) -> None:
        """An attempt has taken too long."""
        if self.is_up or life != self._lives:
            return
        self._close(self._here, self._there)
        self._attempts += 1
        settings = self._settings
        bound = min(settings.backoff_awaited, settings.backoff * 2.0 ** (self._attempts - 1))
        self._lives += 1
        self._clock.at(self._rng.uniform(0.0, bound), self.connect)

    def _break(self) -> None:
        self._give_up()
        self.connect()

    def _give_up(self) -> None:
        self.is_up = False
        self.traffic.breaks += 1
        self._close(self._here, self._there)
        self._device.link_down()

    # Silence

    def _hears(self, end: End) -> None:
        if end is self._here:
            self._silence.heard(self._clock.now)
            self._watch_silence()

    def _watch_silence(self) -> None:
        due = min(self._silence.ping_at, self._silence.over_at)
        if self.is_up and due < self._silence_looks:
            self._silence_looks = due
            self._clock.at(due - self._clock.now, partial(self._look_at_silence, due))

    def _look_at_silence(self, due: float) -> None:
        if due != self._silence_looks:
            return
        self._silence_looks = inf
        now = self._clock.now
        if not self.is_up:
            return
        if now >= self._silence.over_at:
            self._try_another()
            return
        if now >= self._silence.ping_at:
            self._silence.pinged(now)
            self._ping()
        self._watch_silence()

    def _try_another(self) -> None:
        """Try to reach the broker over another connection, and go on with that unless this one was heard."""
        if self._reaching:
            return
        self._reaching = True
        life, (here, there) = self._lives, self._ends()
        tried = False

        def ended(*, there_is_one: bool) -> None:
            nonlocal tried
            if tried:
                return
            tried, self._reaching = True, False
            over = self.is_up and life == self._lives and self._clock.now >= self._silence.over_at
            if over and there_is_one:
                self._give_up()
                self._silence.given_up()
                self._go_on_with(here, there)
                self._introduce()
                return
            for end in (here, there):
                end.close()
            if over:
                self._try_another()
            else:
                self._watch_silence()

        self._clock.at(self._settings.connect_timeout, partial(ended, there_is_one=False))
        self._reach(here, there, partial(ended, there_is_one=True))

    def _close(self, *ends: End) -> None:
        self._served = False
        self._unanswered.clear()
        for end in ends:
            end.close()

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
            self._ping()
        self._looks = True
        # A publish is given up within a fifth of a second after its time.
        self._clock.at(max(0.2, oldest + settings.publish_timeout - now), self._look)

    def _ping(self) -> None:
        here, there = self._here, self._there
        here.send(PING, lambda: there.send(PING, _nothing))


def _nothing() -> None:
    """The broker has a message that nobody waits for."""
