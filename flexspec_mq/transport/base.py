"""Messages, events, settings and counters of a link. Nothing here knows how bytes travel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from flexspec_mq import waiting
from flexspec_mq.transport.needs import NOTHING, BrokerLimits

NO_SUBSCRIBERS = 0x10
NOT_AUTHORIZED = 0x87
TAKEN_OVER = 0x8E
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
MAX_EXPIRY = 2**32 - 1
MOST_PROPERTIES = 1024
"""Bytes of a message's properties that are passed on; those of one that has more are not, as they wait in memory."""

UserProperties: TypeAlias = tuple[tuple[str, str], ...]
"""User Properties of a message of MQTT 5: pairs of name and value."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from the broker.

    Attributes:
        qos: quality of service at which it was delivered, 0 to 2.
        retain: whether it was stored before we subscribed, so that it may be old.
        properties: MQTT 5 properties as they came, if they are few; `transport.properties.read_properties` reads them.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: bytes = b""


@dataclass(frozen=True, slots=True)
class LinkUpEvent:
    """Connected; all subscriptions are acknowledged and the birth messages published.

    Messages that the broker kept for us, retained ones among them, may come before it.

    Attributes:
        connection: counts connections of this link, from 1.
    """

    connection: int


@dataclass(frozen=True, slots=True)
class LinkDownEvent:
    """The connection is gone, or nothing comes over it any more; the link is already trying for the next one."""

    reason: str


LinkEvent: TypeAlias = Inbound | LinkUpEvent | LinkDownEvent


@dataclass(frozen=True, slots=True)
class Outbound:
    """A message to publish.

    Attributes:
        expiry: seconds after which the broker discards it; None is never.
        correlation: Correlation Data of the request that it answers; None without.
        user: User Properties, as pairs of name and value; clients of MQTT 3.1.1 do not get them.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    expiry: float | None = None
    correlation: bytes | None = None
    user: UserProperties = ()


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and the highest quality of service at which to receive."""

    filter: str
    qos: int = 1


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to check the broker, and who we are.

    Attributes:
        ca: certificate authority to trust; None is the system's.
        certificate: ours, if the broker asks for one.
        key: private key of `certificate`.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def no_birth() -> Sequence[Outbound]:
    """Publish nothing after a connect."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Settings of a link. All times are seconds.

    Attributes:
        client_id: unique at the broker; a second link with it takes the first one's place.
        keepalive: silence after which both sides probe; a dead peer is noticed after up to twice this.
        session_expiry: how long the broker keeps our subscriptions and undelivered messages of QoS ≥ 1
            while we are away; 0 is a clean session.
        will: published by the broker on a lost connection, and also when we leave in order; it does not expire.
        birth: called after each connect, when all subscriptions stand; its messages go out before
            `LinkUpEvent`, retained if they say so.
        subscriptions: renewed on each connection, in this order, before anything else.
        inbound_queue: messages that may wait for the consumer of `events`; beyond it the oldest of the topic that has
            the most is dropped and counted in `LinkCounters.inbound_dropped`.
        inbound_bytes: bytes of payload that may wait, likewise.
        admit: asked by topic and size, properties and payload, whether a message is wanted, before more of it is read;
            one that is not is counted in `LinkCounters.inbound_refused`, and acknowledged. Called on the event loop,
            for every message. None wants all.
        outbound_queue: calls of `publish` that may wait at a time; beyond it `publish` refuses with 0x97.
        receive_maximum: messages of QoS ≥ 1 that the broker may have in flight to us.
        answer_timeout: within which the other side answers, as far as is known before it has.
        connect_timeout: bound for each of name resolution with TCP connect, TLS handshake, CONNACK and SUBACK.
        publish_timeout: bound for an acknowledgement of a publish; then the connection is taken for dead.
        backoff: longest wait before the first retry of a connection; doubles with each, up to `backoff_max`.
        awaited: asked after each attempt that failed whether somebody waits for the link, which shortens the wait.
            None: nobody does.
        give_up_after: seconds without a connection after which the link fails; None tries for ever.
        needs: a broker that says that it can do less is refused.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsSettings | None = None
    keepalive: int = waiting.KEEPALIVE
    session_expiry: int = 0
    will: Outbound | None = None
    birth: Callable[[], Sequence[Outbound]] = no_birth
    subscriptions: tuple[Subscription, ...] = ()
    inbound_queue: int = 1024
    inbound_bytes: int = 2**24
    admit: Callable[[str, int], bool] | None = None
    outbound_queue: int = 256
    receive_maximum: int = 200
    answer_timeout: float = waiting.ANSWER
    connect_timeout: float = waiting.CONNECT
    publish_timeout: float = 2 * waiting.CONNECT
    backoff: float = waiting.RETRY[0]
    backoff_max: float = waiting.RETRY[1]
    awaited: Callable[[], bool] | None = None
    give_up_after: float | None = None
    needs: BrokerLimits = NOTHING

    @property
    def address(self) -> str:
        """``host:port``, for messages to people."""
        return f"{self.host}:{self.port}"


@dataclass(slots=True)
class LinkCounters:
    """Counts of what a link did since it was made; they only ever rise.

    Attributes:
        connects: connections that came up.
        disconnects: connections that were lost.
        attempts_failed: connections that did not come up.
        published: messages handed over: QoS 0 written to the socket, QoS ≥ 1 acknowledged.
        received: messages from the broker, but for those that were not wanted.
        inbound_refused: messages that were not wanted.
        inbound_dropped: messages received and dropped on overflow, the oldest first.
        bytes_out: payload bytes of `published`.
        bytes_in: payload bytes of `received`.
    """

    connects: int = 0
    disconnects: int = 0
    attempts_failed: int = 0
    published: int = 0
    received: int = 0
    inbound_refused: int = 0
    inbound_dropped: int = 0
