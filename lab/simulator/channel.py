"""A device's MQTT connection in simulated time, over a link on which a message may be late but is not lost.

TCP is what `Impairment.hold` makes of it, as for the proxy: a lost packet comes one retransmission timeout later, and
an outage holds what it meets until it ends. Connections do not break. The broker stands next to the worker, a constant
delay away.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Protocol

import msgspec

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.protocol.effects import Send
from flexspec_mq.transport.base import Subscription
from lab.simulator.clock import SimulatedClock
from lab.simulator.worker import VERSION
from lab.testbed.link.impairment import Impairment
from lab.testbed.link.profiles import LinkPlan
from schemas.messages import Close, Draft, Error, Open, Poll, Verdict

HEADERS = 52
"""Bytes of IP and TCP before the payload, time stamps included."""
ACK = 4
"""Bytes of PUBACK, PUBREC, PUBREL and PUBCOMP that say that all is well."""
_LONG = 128
"""Bytes after which the length of a packet takes one byte more."""


class ChannelDevice(Protocol):
    """The end of a channel that publishes drafts."""

    @property
    def name(self) -> str:
        """On topics."""
        ...

    def receive(self, message: Verdict | Error) -> None:
        """A message has come."""
        ...


class ChannelWorker(Protocol):
    """Who gets them."""

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        ...


class SimulatedMqtt:
    """A channel over a broker and a link.

    Args:
        clock: clock of the simulation.
        device: sender of what goes up; it is told what happens.
        worker: gets them.
        plan: plan of the link; None is loopback.
        broker: seconds that a message takes from one side of the broker to the worker, or back.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        device: ChannelDevice,
        worker: ChannelWorker,
        plan: LinkPlan | None,
        broker: float,
    ) -> None:
        self._clock = clock
        self._device = device
        self._worker = worker
        self._plan = plan
        self._broker = broker
        self._verdicts = topics.verdict_topic(device.name)
        self._codec = Codec()
        self._up: Impairment | None = None
        self._down: Impairment | None = None
        self._zero = 0.0
        self.begin(0.0 if plan is None else plan.begins_s)

    def begin(self, time: float | None) -> None:
        """Have the channel's time be `time` (seconds) from now on; None lets it go on."""
        if self._plan is None or time is None:
            return
        plan = msgspec.structs.replace(self._plan, begins_s=time)
        self._up, self._down = Impairment(plan, "up"), Impairment(plan, "down")
        self._zero = self._clock.now - time

    def send(self, send: Send) -> None:
        """Publish a message of the device's machine."""
        payload = len(self._codec.encode(send.message))
        if send.to_worker is None:
            topic, version = topics.open_topic(VERSION, self._device.name), VERSION
        else:
            topic, version = topics.draft_topic(send.to_worker, self._device.name), None
        receive = partial(self._worker.receive, self._device.name, send.message, min(send.qos, 1), version)
        expiry = None if send.expiry is None else ceil(send.expiry)
        size = publish_size(topic, payload, send.qos, expiry)
        self._publish(self._up, self._down, send.qos, size, lambda: self._clock.at(self._broker, receive))

    def answer(self, message: Verdict | Error, qos: int) -> None:
        """The worker has published a message for the device."""
        payload = len(self._codec.encode(message))
        qos = min(qos, Subscription(self._verdicts).qos)
        arrived = partial(self._device.receive, message)
        size = publish_size(self._verdicts, payload, qos, None)
        self._clock.at(self._broker, lambda: self._publish(self._down, self._up, qos, size, arrived))

    def _publish(
        self,
        out: Impairment | None,
        back: Impairment | None,
        qos: int,
        size: int,
        arrived: Callable[[], None],
    ) -> None:
        """Publish one way."""

        def released() -> None:
            self._carry(back, ACK, _nothing)
            arrived()

        def taken() -> None:
            if qos == 2:
                self._carry(back, ACK, lambda: self._carry(out, ACK, released))
            else:
                released()

        self._carry(out, size, taken if qos else arrived)

    def _carry(self, way: Impairment | None, size: int, arrived: Callable[[], None]) -> None:
        time = self._clock.now - self._zero
        self._clock.at(0.0 if way is None else way.hold(time, HEADERS + size) - time, arrived)


def publish_size(topic: str, payload: int, qos: int, expiry: float | None) -> int:
    """Bytes of a PUBLISH.

    Args:
        topic: topic of it.
        payload: bytes.
        qos: 0 to 2.
        expiry: seconds, sent as whole ones; None sends none.
    """
    rest = 2 + len(topic) + (2 if qos else 0) + (1 if expiry is None else 6) + payload
    return 1 + (1 if rest < _LONG else 2 if rest < _LONG**2 else 3) + rest


def _nothing() -> None:
    """Nobody waits for an acknowledgement, which takes its room on the link all the same."""
