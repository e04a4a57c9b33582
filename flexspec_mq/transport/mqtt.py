"""The link over MQTT 5: connections one after the other, each made once and thrown away."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from flexspec_mq import entropy, waiting
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.daemon.retry import Backoff, Waiting, retrying
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import LinkDown, LinkError, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    QUOTA_EXCEEDED,
    RETAIN_NOT_SUPPORTED,
    TAKEN_OVER,
    LinkSettings,
    Outbound,
)
from flexspec_mq.transport.connection import MqttConnection
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.refusals import publish_refusal
from flexspec_mq.transport.silence import LinkSilence
from flexspec_mq.transport.sockets import connect

_log = logging.getLogger(__name__)

_FAILURE = 0x80
_LATE = 3
"""Times that the bounds of an attempt double, but for that of reaching the broker's machine."""
_HEADERS = 32
"""Bytes of a PUBLISH beside topic, payload and what a peer chose the length of, at most: fixed header, ids, expiry."""


@asynccontextmanager
async def mqtt_link(
    settings: LinkSettings, *, on_wait: Callable[[Waiting], None] | None = None
) -> AsyncIterator[Link]:
    """Run a link to a broker until the body ends. Has the shape of `LinkFactory`.

    Entering does not wait for the broker; `Link.wait_up` does.

    Args:
        settings: settings of the link.
        on_wait: called before each wait for another attempt to connect; without it the log has each reason once a
            minute.

    Raises:
        LinkError: the link failed for good and the body was not told: the broker refused us, or
            `give_up_after` is over.
    """
    link = MqttLink(settings, on_wait)
    async with link.supervising(link.connect_loop()):
        yield link


class MqttLink(Link):
    """A link over MQTT 5. Made by `mqtt_link`."""

    def __init__(self, settings: LinkSettings, on_wait: Callable[[Waiting], None] | None) -> None:
        super().__init__(settings)
        self._on_wait = on_wait
        self._throttle = LogThrottle()
        self._connection: MqttConnection | None = None
        self._publishing = 0
        self._reached: socket.socket | None = None
        self._late = 0  # attempts in a row that came to nothing although the broker's machine was reached
        self._silence = LinkSilence(0.0, settings.answer_timeout)
        self._at_once = asyncio.Event()
        self._backoff = Backoff(
            settings.backoff, settings.backoff_max, settings.give_up_after, settings.awaited
        )

    async def connect_loop(self) -> None:
        """Connect, stay until the connection is lost, connect again; until cancelled or refused."""
        try:
            await self._connect_again_and_again()
        finally:
            if self._reached is not None:
                self._reached.close()

    async def _connect_again_and_again(self) -> None:
        flaps = 0
        while True:
            try:
                connection = await retrying(
                    self._connect,
                    what=f"connecting to the broker at {self.settings.address}",
                    on=LinkDown,
                    backoff=self._backoff,
                    on_wait=self._note_waiting,
                    sleep=self._pause,
                )
            except LinkDown as last:
                self._fail(
                    LinkError(
                        f"gave up after {self.settings.give_up_after:g} s: {last.message}", hint=last.hint
                    )
                )
                return
            except LinkError as refusal:
                self._fail(refusal)
                return
            lived = await self._stay(connection)
            if connection.goodbye == TAKEN_OVER:
                self._fail(self._taken_over())
                return
            if self._reached is not None:
                continue  # `LinkSilence` sees to it that this becomes rarer
            flaps = 0 if lived > waiting.CONNECT else flaps + 1
            if flaps:
                await self._pause(self._backoff.delay(flaps))

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or a little if `reconnect` is called, or was since the pause before."""
        least = min(seconds, self._backoff.first)
        await asyncio.sleep(least)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - least):
                await self._at_once.wait()
        self._at_once.clear()

    async def _connect(self) -> MqttConnection:
        reached, self._reached = self._reached, None
        late, self._late = self._late, 0
        plain = reached or await connect(self.settings)
        # A broker to which a thousand come at once serves each a little: who gives up too soon has it begin anew.
        self._late = min(late + 1, _LATE)
        patient = replace(self.settings, connect_timeout=self.settings.connect_timeout * 2**late)
        connection = MqttConnection(patient, self._inbox.wants, self._inbox.put_message, self._silence, plain)
        try:
            await connection.open()
            subscribed = dict(self.wanted)
            await connection.subscribe_all(subscribed)
            await self._announce(connection)
            await self._catch_up(connection, subscribed)
        except BaseException:
            await connection.close()
            raise
        self._late = 0
        return connection

    async def _catch_up(self, connection: MqttConnection, subscribed: Mapping[str, int]) -> None:
        """Do what `subscribe` and `unsubscribe` only noted while the connection was being made."""
        while subscribed != self.wanted:
            wanted = dict(self.wanted)
            for name in subscribed.keys() - wanted.keys():
                await connection.unsubscribe_from(name)
            await connection.subscribe_all(
                {name: qos for name, qos in wanted.items() if subscribed.get(name) != qos}
            )
            subscribed = wanted

    async def _announce(self, connection: MqttConnection) -> None:
        for message in self.settings.birth():
            code = await connection.send(message)
            if code >= _FAILURE:
                refusal = publish_refusal(message.topic, code)
                raise LinkRefused(refusal.message, hint=refusal.hint)

    async def _stay(self, connection: MqttConnection) -> float:
        """Serve from `connection` until it is lost. Return how many seconds it lived."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            if not connection.lost.done():
                self._connection = connection
                connection.on_lost = self._lose
                self._silence.up()
                self._at_once.clear()
                self._mark_up()
            async with running(self._replace_when_silent(connection), "replace when silent") as replacing:
                await any_of(replacing, connection.lost)
                if replacing.done():
                    replacing.result()
        finally:
            self._connection = None
            await connection.close()
        return loop.time() - since

    async def _replace_when_silent(self, connection: MqttConnection) -> None:
        """Give `connection` up when it has been silent for too long and another one can be had.

        As long as none can, the old one may come back just as well. Until either happens the link is down: what would
        be sent meanwhile would come late, and all at once.
        """
        while True:
            await connection.silent.wait()
            self._mark_down("nothing comes any more over the connection that there is", lost=False)
            self._reached = await self._reach_beside(connection)
            if self._reached is not None:
                self._silence.given_up()
                connection.abort("nothing came any more, and the broker can be reached anew")
                return
            if not connection.lost.done():
                self._mark_up(anew=False)

    async def _reach_beside(self, connection: MqttConnection) -> socket.socket | None:
        """Another connected socket; None if the connection that there is speaks again first."""
        loop = asyncio.get_running_loop()
        async with running(connection.speaks.wait(), "speaks again") as speaks:
            while not speaks.done():
                began = loop.time()
                async with running(self._reach(), "reach the broker") as reaching:
                    await any_of(reaching, speaks)
                    if reaching.done() and (reached := reaching.result()) is not None:
                        if not speaks.done():
                            return reached
                        reached.close()
                await asyncio.wait({speaks}, timeout=began + self.settings.answer_timeout - loop.time())
        return None

    async def _reach(self) -> socket.socket | None:
        try:
            return await connect(self.settings)
        except LinkDown as error:
            _log.info("%s, and nothing comes any more over the connection that there is", error.message)
            return None

    def _lose(self, reason: str) -> None:
        self._connection = None
        self.counters.disconnects += not self.is_up  # it was silent before
        self._mark_down(reason)

    def _note_waiting(self, wait: Waiting) -> None:
        self.counters.attempts_failed += 1
        self._mark_down(str(wait.error).partition("\n")[0])
        if self._on_wait is not None:
            self._on_wait(wait)
        elif self._throttle.due("", str(wait.error), entropy.now()):
            _log.warning("%s", wait)

    async def _send(self, message: Outbound) -> None:
        connection = self._connection
        if connection is None:
            raise LinkDown(f"the link to {self.settings.address} was closed")
        self._check_limits(connection, message)
        self._publishing += 1
        try:
            code = await connection.send(message)
        finally:
            self._publishing -= 1
        if code >= _FAILURE or (code == NO_SUBSCRIBERS and not message.retain):
            raise publish_refusal(message.topic, code)

    def _check_limits(self, connection: MqttConnection, message: Outbound) -> None:
        limits = connection.limits
        if self._publishing >= self.settings.outbound_queue:
            raise PublishRefused(
                f"{self._publishing} publishes wait already for the broker", reason_code=QUOTA_EXCEEDED
            )
        told = len(message.correlation or b"") + sum(
            5 + len(name) + len(value) for name, value in message.user
        )
        size = len(message.payload) + len(message.topic.encode()) + told + _HEADERS
        if limits.packet_size is not None and size > limits.packet_size:
            raise publish_refusal(message.topic, PACKET_TOO_LARGE)
        if message.qos > limits.qos:
            raise PublishRefused(
                f"the broker takes QoS {limits.qos} at most",
                reason_code=QOS_NOT_SUPPORTED,
                hint="lower the QoS",
            )
        if message.retain and not limits.retain:
            raise PublishRefused(
                "the broker does not keep retained messages",
                reason_code=RETAIN_NOT_SUPPORTED,
                hint="FlexSpec needs a broker with retained messages",
            )

    async def _subscribe(self, topic_filter: str, qos: int) -> None:
        if self._connection is None:
            return
        try:
            await self._connection.subscribe_all({topic_filter: qos})
        except LinkRefused:
            self.wanted.pop(topic_filter, None)
            raise

    async def _unsubscribe(self, topic_filter: str) -> None:
        if self._connection is not None:
            await self._connection.unsubscribe_from(topic_filter)

    def reconnect(self, reason: str) -> None:
        """Have a new connection at once; see `Link.reconnect`."""
        self._at_once.set()
        if self._connection is not None and self.is_up:  # a silent one is being replaced
            self._connection.abort(reason)
