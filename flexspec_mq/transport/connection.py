"""MQTT 5 connection through aiomqtt, from its socket to its end. Never used twice.

aiomqtt 2.5 leaves open what this class closes. Its `publish` hides reason codes and sleeps through a
disconnect; its bounded queue drops unseen; a broker that hangs up before CONNACK costs a whole timeout; a
cancelled connect leaks its socket. The hooks used are aiomqtt's own callbacks and, for what paho keeps to
itself (reason codes of PUBREC, the socket's creation), two of paho's methods; the tests hold both.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import any_of, on_thread
from flexspec_mq.errors import LinkDown, LinkRefused, PublishRefused
from flexspec_mq.transport.base import QUOTA_EXCEEDED, Inbound, LinkSettings, Outbound
from flexspec_mq.transport.bulk_reading import BulkReader
from flexspec_mq.transport.diagnosis import answers_only_older, diagnose
from flexspec_mq.transport.needs import MOST_IN_FLIGHT, BrokerLimits
from flexspec_mq.transport.properties import (
    connect_properties,
    limits_of,
    packed,
    properties_for,
    publish_properties,
)
from flexspec_mq.transport.refusals import (
    NO_SUCH_FILTERS,
    connect_refusal,
    no_mqtt5,
    poor_broker,
    subscribe_refusal,
)
from flexspec_mq.transport.silence import LinkSilence
from flexspec_mq.transport.sockets import open_socket

_paho_log = logging.getLogger(f"{__name__}.paho")
_paho_log.setLevel(
    logging.CRITICAL
)  # what it logs as an error ends the connection, and `lost` says so in words
_FAILURE = 0x80
_DISCONNECT_WITH_WILL = 0x04
_READ_AGAIN = 0.004
"""Seconds in which messages come together that nobody wants."""


@dataclass(frozen=True, slots=True)
class _Ack:
    code: asyncio.Future[int]
    size: int
    since: float
    in_window: bool


class MqttConnection(aiomqtt.Client):
    """MQTT 5 connection.

    Args:
        settings: settings of the link.
        wants: asked by topic and size of each message whether it is to be delivered.
        deliver: takes those that are, on the event loop, in order.
        silence: watch of the link, which begins anew with this connection.
        plain: a connected socket to go on with, which nothing was sent over; None makes one.

    Attributes:
        lost: done once the connection is unusable; its result says why.
        on_lost: called with the reason at the very moment that `lost` is done.
        hung_up: the broker closed the connection instead of answering CONNECT.
        goodbye: reason code of the broker's DISCONNECT; 0 without one.
        limits: limits of the broker.
        silent: set as long as nothing has come for too long.
        speaks: set as long as `silent` is not.
    """

    def __init__(
        self,
        settings: LinkSettings,
        wants: Callable[[str, int], bool],
        deliver: Callable[[Inbound], None],
        silence: LinkSilence,
        plain: socket.socket | None = None,
    ) -> None:
        will = settings.will
        super().__init__(
            settings.host,
            settings.port,
            identifier=settings.client_id,
            username=settings.username,
            password=settings.password,
            logger=_paho_log,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=None if will is None else aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
            timeout=settings.connect_timeout,
            keepalive=settings.keepalive,
            clean_start=settings.session_expiry == 0,
            max_queued_incoming_messages=1,  # unused: `_on_message` goes to `deliver`
            max_inflight_messages=MOST_IN_FLIGHT,  # the window holds back, so that paho never queues
            properties=connect_properties(settings),
        )
        self.settings = settings
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.goodbye = 0
        self.limits = BrokerLimits()
        self.on_lost: Callable[[str], None] = lambda _: None
        self._deliver = deliver
        self._wants = wants
        self._reader = BulkReader(self._client, wants, deliver)
        self._quota = asyncio.Semaphore(MOST_IN_FLIGHT)  # publishes that may be unacknowledged
        self._acks: dict[int, _Ack] = {}
        self._plain = plain
        self._socket: socket.socket | None = None
        self.silent, self.speaks = asyncio.Event(), asyncio.Event()
        self.speaks.set()
        self._silence = silence
        silence.begin(self._loop.time())
        self._looks: asyncio.TimerHandle | None = None
        self._loop_thread = threading.get_ident()
        self._writes_itself = False
        self.hung_up = False
        self._disconnected.add_done_callback(self._note_disconnected)
        self._plain_pubrec = self._client._handle_pubrec  # noqa: SLF001  paho drops its reason code
        self._client._handle_pubrec = self._handle_pubrec  # type: ignore[method-assign]  # noqa: SLF001

    async def open(self) -> None:
        """Connect, up to CONNACK.

        Raises:
            LinkDown: unreachable, silent, or the broker asks to come back later.
            LinkRefused: credentials, access rules, certificate, not MQTT 5, or less than `settings.needs`.
        """
        plain, self._plain = self._plain, None
        self._socket = connected = await open_socket(self.settings, plain)
        began = self._loop.time()
        self._client._create_socket = lambda: connected  # type: ignore[method-assign]  # noqa: SLF001
        entering: asyncio.Future[Any] = asyncio.ensure_future(self.__aenter__())
        try:
            await any_of(entering, self.lost)
        finally:
            if not entering.done():
                self._note_lost("the connection was given up while it was being made")
                _shut_down(connected)
                await asyncio.wait({entering})
                entering.exception()  # the shutdown's echo
        try:
            entering.result()
        except MqttConnectError as error:
            raise connect_refusal(self.settings, error.rc) from None
        except aiomqtt.MqttError as error:
            if self.hung_up and await on_thread(answers_only_older, self.settings):
                raise no_mqtt5(self.settings) from None
            if self.hung_up and self.settings.tls is not None and self.settings.tls.certificate is not None:
                cause = await on_thread(diagnose, self.settings)
                if cause is not None and cause.final:  # paho keeps the alert to itself
                    raise LinkRefused(cause.detail, hint=cause.advice) from None
            raise LinkDown(
                f"the broker at {self.settings.address} did not take the connection: {error}",
                hint="is it an MQTT broker, and this its port for plain TCP?"
                if self.settings.tls is None
                else "",
            ) from None
        self._silence.measured(self._loop.time() - began)
        if lacking := list(self.settings.needs.lacking(self.limits)):
            raise poor_broker(self.settings, lacking)
        if self.lost.done():
            raise LinkDown(self.lost.result())

    async def subscribe_all(self, wanted: Mapping[str, int]) -> None:
        """Subscribe to all filters in one packet.

        Raises:
            LinkDown: the connection broke, or no SUBACK in time.
            LinkRefused: the broker said no to one of them.
        """
        if not wanted:
            return
        filters = [(name, SubscribeOptions(qos=qos)) for name, qos in wanted.items()]
        try:
            codes = await self._race(self.subscribe(filters))
        except LinkDown:
            if self.goodbye not in NO_SUCH_FILTERS:
                raise
            raise subscribe_refusal(self.settings, " ".join(wanted), self.goodbye) from None
        for topic_filter, code in zip(wanted, codes, strict=True):
            number = code if isinstance(code, int) else code.value
            if number >= _FAILURE:
                raise subscribe_refusal(self.settings, topic_filter, number)

    async def unsubscribe_from(self, topic_filter: str) -> None:
        """Unsubscribe from one filter.

        Raises:
            LinkDown: the connection broke, or no UNSUBACK in time.
        """
        await self._race(self.unsubscribe(topic_filter))

    async def send(self, message: Outbound) -> int:
        """Publish and return the reason code of PUBACK, PUBREC or PUBCOMP; 0 for QoS 0 once it is written.

        Raises:
            LinkDown: the connection broke, or no acknowledgement within `publish_timeout`.
        """
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                if message.qos == 0:
                    return await self._start_publish(message)
                await self._quota.acquire()
                try:
                    code = self._start_publish(message)
                except (LinkDown, PublishRefused):
                    self._quota.release()
                    raise
                return await code
        except TimeoutError:
            reason = f"a publish was not acknowledged within {self.settings.publish_timeout:g} s"
            self.abort(reason)
            raise LinkDown(reason) from None

    def abort(self, reason: str) -> None:
        """Give the connection up, without a word to the broker."""
        self._note_lost(reason)
        if (current := self._client.socket()) is not None:
            _shut_down(current)

    async def close(self) -> None:
        """End the connection: in order, with the will if there is one, unless it is lost already."""
        if not self.lost.done():
            reason = None
            if self.settings.will is not None:
                reason = ReasonCode(PacketTypes.DISCONNECT, identifier=_DISCONNECT_WITH_WILL)
            if self._client.disconnect(reasoncode=reason) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                await asyncio.wait({self.lost}, timeout=waiting.FAREWELL)
        self._note_lost("the link was closed")
        if not self._disconnected.done() and (current := self._client.socket()) is not None:
            _shut_down(current)
            await asyncio.wait({self._disconnected}, timeout=waiting.FAREWELL)
        self._client._sock_close()  # type: ignore[no-untyped-call,unused-ignore]  # noqa: SLF001
        if self._socket is not None:
            self._socket.close()

    def _start_publish(self, message: Outbound) -> asyncio.Future[int]:
        """Hand the packet to paho. Return the future of its reason code."""
        if self.lost.done():
            raise LinkDown(self.lost.result())
        self._writes_itself = True
        try:
            info = self._client.publish(
                message.topic, message.payload, message.qos, message.retain, publish_properties(message)
            )
        finally:
            self._writes_itself = False
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE or info.mid in self._acks:
            raise PublishRefused("no message id is free", reason_code=QUOTA_EXCEEDED)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise LinkDown(f"the message could not be written: {paho.error_string(info.rc)}")
        code: asyncio.Future[int] = self._loop.create_future()
        size, now = len(message.topic) + len(message.payload), self._loop.time()
        self._acks[info.mid] = _Ack(code, size, now, in_window=message.qos > 0)
        if message.qos:
            self._silence.sent_for_ack(size, now)
        else:
            self._silence.sent(size, now)
        self._watch()
        self._client.loop_write()
        if self._client.want_write() and (current := self._client.socket()) is not None:
            self._add_writer(current)  # the kernel's buffer is full
        return code

    async def _race(self, call: Any) -> Any:
        """Await one of aiomqtt's calls, but not beyond the end of the connection."""
        task = asyncio.ensure_future(call)
        try:
            await any_of(task, self.lost)
            if not task.done():
                raise LinkDown(self.lost.result())
            return task.result()
        except aiomqtt.MqttError as error:
            raise LinkDown(f"the broker at {self.settings.address} did not answer: {error}") from None
        finally:
            task.cancel()

    def _note_lost(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._looks is not None:
            self._looks.cancel()
        self.on_lost(reason)
        self._quota.release()  # the first who waits meets the end, and wakes the next one
        acks, self._acks = self._acks, {}
        for ack in acks.values():
            if not ack.code.done():
                ack.code.set_exception(LinkDown(reason))

    def _note_disconnected(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        self._note_lost("the link was closed" if error is None else f"the connection was lost: {error}")

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.limits = limits_of(properties)
        self._quota = asyncio.Semaphore(self.limits.receive_maximum)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.goodbye = reason_code.value
        if not self._connected.done():
            self.hung_up = True
            self._connected.set_exception(aiomqtt.MqttError("it hung up before CONNACK"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:  # noqa: ARG002
        """Take what `BulkReader` left to paho."""
        if self._wants(message.topic, len(message.payload)):
            properties = packed(message.properties)
            self._deliver(
                Inbound(message.topic, bytes(message.payload), message.qos, message.retain, properties)
            )

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Read in bulk, in place of aiomqtt's reader: another one for the same socket takes its place."""
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read)

    def _watch(self) -> None:
        """Look when the silence will have been too long, if one is not to look before."""
        due = min(self._silence.ping_at, self._silence.over_at)
        if due == inf or self.lost.done():
            return
        if self._looks is not None and self._looks.when() > due:
            self._looks.cancel()
            self._looks = None
        if self._looks is None:
            self._looks = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._looks = None
        now = self._loop.time()
        if now >= self._silence.over_at:
            self.silent.set()
            self.speaks.clear()
            return
        if now >= self._silence.ping_at:
            self._client._send_pingreq()  # noqa: SLF001  paho sends one by itself only when the keepalive is over
            self._silence.pinged(now)
        self._watch()

    def _read(self) -> None:
        if not self.lost.done():  # else the next connection may have begun
            self._silence.heard(self._loop.time())
        if self.silent.is_set():
            self.silent.clear()
            self.speaks.set()
            self._watch()
        try:
            self._reader.read()
        except Exception as error:  # noqa: BLE001  as aiomqtt's own: the connection broke
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            return
        if self._reader.unwanted and (current := self._client.socket()) is not None:
            self._pause_reading(current)

    def _pause_reading(self, sock: Any) -> None:
        """Let what nobody wants come together, as each call of the event loop costs more than a message."""
        self._loop.remove_reader(sock.fileno())
        self._loop.call_later(_READ_AGAIN, self._read_again, sock)

    def _read_again(self, sock: Any) -> None:
        current: Any = self._client.socket()
        if current is sock:
            self._loop.add_reader(sock.fileno(), self._read)

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Ask to be told when the socket takes more, on the loop's thread at once.

        aiomqtt always takes the way through the self-pipe: later, and maybe for a socket that is closed by then.
        """
        if threading.get_ident() != self._loop_thread:  # CONNECT, written by the executor's thread
            super()._on_socket_register_write(client, userdata, sock)
        elif not self._writes_itself:
            self._add_writer(sock)

    def _add_writer(self, sock: Any) -> None:
        self._loop.add_writer(sock.fileno(), self._client.loop_write)

    def _on_publish(
        self,
        client: paho.Client,  # noqa: ARG002
        userdata: Any,  # noqa: ARG002
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,  # noqa: ARG002
    ) -> None:
        self._acknowledge(mid, reason_code.value)

    def _handle_pubrec(self) -> MQTTErrorCode:
        """Take a refusal in PUBREC for what it is: paho would go on with PUBREL and tell success."""
        packet = self._client._in_packet["packet"]  # noqa: SLF001
        mid, code = int.from_bytes(packet[:2], "big"), packet[2] if len(packet) > 2 else 0
        if code < _FAILURE:
            return self._plain_pubrec()
        with self._client._out_message_mutex:  # noqa: SLF001
            if mid not in self._client._out_messages:  # noqa: SLF001
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            reason = ReasonCode(PacketTypes.PUBREC, identifier=code)
            return self._client._do_on_publish(mid, reason, properties_for(PacketTypes.PUBREC))  # noqa: SLF001

    def _acknowledge(self, mid: int, code: int) -> None:
        ack = self._acks.pop(mid, None)
        if ack is None:
            return
        if ack.in_window:
            self._quota.release()
            self._silence.acknowledged(ack.size, self._loop.time() - ack.since)
        if not ack.code.done():  # else the call was cancelled and nobody waits
            ack.code.set_result(code)


def _shut_down(sock: Any) -> None:
    """End a socket under its reader, which then sees the end of the stream."""
    with suppress(OSError):  # it is down already
        sock.shutdown(socket.SHUT_RDWR)
