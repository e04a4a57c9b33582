"""Is the broker that is there already good enough? Asked with paho, over the wire, as any client could."""

from __future__ import annotations

import queue
import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.errors import BrokerError

_ROUNDS = 29
_ROUNDS_COUNTED = 9
_DELAYED_ACK = 0.035
_NO_SUBSCRIBERS = 0x10
_NOT_AUTHORIZED = 0x87
_FAILURE = 0x80
_OTHER_BROKER = "use a broker with MQTT 5, such as Mosquitto"
_NEED_SHARES = "workers need shared subscriptions: use another broker"


@dataclass(frozen=True, slots=True)
class Target:
    """A broker to check, and as whom. `topic` is a prefix that this user may write to and read."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    ca: Path | None = None
    topic: str = "f1/check"
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        needed: FlexSpec does not work without it.
        advice: what to do if not `ok`.
    """

    name: str
    ok: bool
    detail: str
    needed: bool = True
    advice: str = ""


class _Probe:
    """One connection, with its answers as queues. Holds at most what one check sends."""

    def __init__(self, target: Target, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> None:
        self.connected: queue.Queue[tuple[int, str]] = queue.Queue(8)
        self.acknowledged: queue.Queue[int] = queue.Queue(64)
        self.subscribed: queue.Queue[int] = queue.Queue(8)
        self.messages: queue.Queue[MQTTMessage] = queue.Queue(64)
        self.echo: tuple[str, int] | None = None
        self.limits: dict[str, Any] = {}
        self._target = target
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"flexspec-check-{secrets.token_hex(4)}",
            protocol=protocol,
            reconnect_on_failure=False,
        )
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subscribed.put(reasons[0].value)
        client.on_message = self._on_message
        client.on_socket_open = self._on_socket_open
        if target.username is not None:
            client.username_pw_set(target.username, target.password)
        if target.ca is not None:
            client.tls_set(ca_certs=str(target.ca))

    def open(self) -> tuple[int, str]:
        """Connect and return CONNACK's reason code and name.

        Raises:
            OSError: unreachable.
            queue.Empty: no CONNACK.
        """
        self._client.connect_timeout = self._target.timeout
        self._client.connect(self._target.host, self._target.port, keepalive=30)
        self._client.loop_start()
        return self.connected.get(timeout=self._target.timeout)

    def close(self) -> None:
        """Disconnect and end the network thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str) -> int:
        """Subscribe at QoS 1 and return SUBACK's reason code."""
        self._client.subscribe(topic_filter, qos=1)
        return self.subscribed.get(timeout=self._target.timeout)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Publish and return the acknowledgement's reason code."""
        self._client.publish(topic, payload, qos=qos, retain=retain)
        return self.acknowledged.get(timeout=self._target.timeout)

    def _on_connect(
        self,
        _client: Client,
        _data: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        for name in ("ReceiveMaximum", "MaximumPacketSize", "MaximumQoS", "SharedSubscriptionAvailable"):
            if hasattr(properties, name):
                self.limits[name] = getattr(properties, name)
        self.connected.put((reason.value, str(reason)))

    def _on_publish(
        self, _client: Client, _data: Any, _mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        if self.echo is None:
            self.acknowledged.put(reason.value)

    def _on_message(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        if self.echo is None:
            self.messages.put(message)
        else:
            client.publish(self.echo[0], message.payload, qos=self.echo[1])

    @staticmethod
    def _on_socket_open(_client: Client, _data: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def check(target: Target) -> list[Finding]:
    """Check a broker. The list ends early when nothing further can be asked.

    Raises:
        BrokerError: it stopped answering half-way.
    """
    reached = _check_connect(target)
    if not reached[-1].ok:
        return reached
    findings = list(reached)
    try:
        for step in (_check_retained, _check_shares, _check_reasons, _check_round_trip):
            findings.append(step(target))  # noqa: PERF401  the error names the last that was done
    except (queue.Empty, OSError):
        raise BrokerError(
            f"the broker at {target.host}:{target.port} stopped answering after: {findings[-1].name}",
            hint="look into its log; raise --timeout on a slow network",
        ) from None
    return findings


@contextmanager
def _open(target: Target) -> Iterator[_Probe]:
    probe = _Probe(target)
    try:
        code, reason = probe.open()
        if code >= _FAILURE:
            raise BrokerError(f"a further connection was refused: {reason}")
        yield probe
    finally:
        probe.close()


def _check_connect(target: Target) -> list[Finding]:
    where = f"{target.host}:{target.port}"
    probe = _Probe(target)
    try:
        code, reason = probe.open()
    except (OSError, UnicodeError) as error:  # a host name that is none cannot be encoded
        advice = "check address, port and firewall; `flexspec-broker run` starts a broker on this machine"
        return [Finding("reachable", False, f"{where}: {error}", advice=advice)]
    except queue.Empty:
        older = _speaks_311(target)
        advice = _OTHER_BROKER if older else "is this an MQTT port, plain or TLS?"
        said = "answers MQTT 3.1.1 only" if older else "did not answer CONNECT"
        return [Finding("reachable", True, where), Finding("MQTT 5", False, said, advice=advice)]
    finally:
        probe.close()
    reached = Finding("reachable", True, where)
    if code == 0x84:
        return [
            reached,
            Finding("MQTT 5", False, reason, advice=_OTHER_BROKER),
        ]
    limits = ", ".join(f"{name} {value}" for name, value in probe.limits.items())
    speaks = Finding("MQTT 5", True, limits or "no limits announced")
    if code >= _FAILURE:
        return [reached, speaks, Finding("login", False, reason, advice="give --username and --password")]
    return [reached, speaks, Finding("login", True, target.username or "anonymous")]


def _speaks_311(target: Target) -> bool:
    probe = _Probe(target, MQTTProtocolVersion.MQTTv311)
    try:
        probe.open()
    except (OSError, queue.Empty):
        return False
    else:
        return True
    finally:
        probe.close()


def _check_retained(target: Target) -> Finding:
    topic = f"{target.topic}/{secrets.token_hex(4)}"
    with _open(target) as writer, _open(target) as reader:
        code = writer.publish(topic, b"kept", retain=True)
        if code >= _FAILURE:
            return _forbidden("retained messages", target, code)
        try:
            reader.subscribe(topic)
            try:
                message = reader.messages.get(timeout=target.timeout)
            except queue.Empty:
                return Finding(
                    "retained messages", False, "not delivered", advice="turn retained messages on"
                )
        finally:
            writer.publish(topic, b"", retain=True)
    return Finding("retained messages", message.retain and message.payload == b"kept", "kept and delivered")


def _check_shares(target: Target) -> Finding:
    name, sent = "shared subscriptions", 4
    topic = f"{target.topic}/{secrets.token_hex(4)}"
    with _open(target) as writer, _open(target) as one, _open(target) as two:
        codes = [member.subscribe(f"$share/check/{topic}") for member in (one, two)]
        if max(codes) >= _FAILURE:
            return Finding(name, False, f"refused (0x{max(codes):02x})", advice=_NEED_SHARES)
        for i in range(sent):
            code = writer.publish(topic, bytes((i,)))
            if code >= _FAILURE:
                return _forbidden(name, target, code)
        end = time.monotonic() + target.timeout
        while (got := one.messages.qsize() + two.messages.qsize()) < sent and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)  # a broker without shares would deliver each message twice
        shares = one.messages.qsize(), two.messages.qsize()
    ok = sum(shares) == got == sent
    return Finding(name, ok, f"{sent} messages: {shares[0]} + {shares[1]}", advice=_NEED_SHARES)


def _check_reasons(target: Target) -> Finding:
    with _open(target) as writer:
        code = writer.publish(f"{target.topic}/{secrets.token_hex(4)}", b"anybody?")
    if code == _NOT_AUTHORIZED:
        return _forbidden("reason codes", target, code)
    told = code == _NO_SUBSCRIBERS
    detail = (
        "tells when nobody subscribes" if told else f"does not tell when nobody subscribes (0x{code:02x})"
    )
    advice = "a missing worker is then noticed by a time-out only"
    return Finding("reason codes", told, detail, needed=False, advice=advice)


def _check_round_trip(target: Target) -> Finding:
    """Time out and back again between two clients, as drafts and verdicts travel.

    A sender with Nagle's algorithm on waits for the acknowledgement of its last small packet, and a receiver
    with nothing to say delays that by 40 ms, once the kernel has left its quick start of some 16 packets.
    """
    name, topic = "round trip", f"{target.topic}/{secrets.token_hex(4)}"
    with _open(target) as here, _open(target) as there:
        here.subscribe(f"{topic}b")
        there.subscribe(f"{topic}a")
        medians = []
        for qos in (1, 0):
            there.echo = (f"{topic}b", qos)
            times = []
            for _ in range(_ROUNDS):
                start = time.perf_counter()
                code = here.publish(f"{topic}a", b"x" * 40, qos=qos)
                if code >= _FAILURE:
                    return _forbidden(name, target, code)
                here.messages.get(timeout=target.timeout)
                times.append(time.perf_counter() - start)
            medians.append(statistics.median(times[-_ROUNDS_COUNTED:]))
    detail = f"QoS 0 {medians[1] * 1e3:.1f} ms, QoS 1 {medians[0] * 1e3:.1f} ms"
    ok = medians[0] - medians[1] < _DELAYED_ACK
    advice = "its sockets wait for delayed acknowledgements: in Mosquitto, `set_tcp_nodelay true`"
    return Finding(name, ok, detail, needed=False, advice=advice)


def _forbidden(name: str, target: Target, code: int) -> Finding:
    advice = f"give a user that may write and read {target.topic}/#, or another --topic"
    return Finding(name, False, f"publishing was refused (0x{code:02x})", advice=advice)
