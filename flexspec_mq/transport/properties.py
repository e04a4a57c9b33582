"""MQTT 5 properties of the packets that we send, and what those of a CONNACK say."""

import struct
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from flexspec_mq.transport.base import MAX_EXPIRY, MOST_PROPERTIES, LinkSettings, Outbound, UserProperties
from flexspec_mq.transport.needs import BrokerLimits


def properties_for(packet: int) -> Properties:
    """Empty properties of a packet type."""
    return Properties(packet)  # type: ignore[no-untyped-call]


def connect_properties(settings: LinkSettings) -> Properties:
    """Properties of CONNECT."""
    properties = properties_for(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = min(settings.session_expiry, MAX_EXPIRY)
    properties.ReceiveMaximum = settings.receive_maximum
    return properties


@lru_cache(maxsize=256)
def _expiry_properties(seconds: int) -> Properties:
    properties = properties_for(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = seconds
    return properties


def publish_properties(message: Outbound) -> Properties | None:
    """Properties of a message; it expires after its seconds, rounded up."""
    expiry, correlation = message.expiry, message.correlation
    seconds = None if expiry is None else min(max(1, ceil(expiry)), MAX_EXPIRY)
    if correlation is None and not message.user:
        return None if seconds is None else _expiry_properties(seconds)
    properties = properties_for(PacketTypes.PUBLISH)
    if correlation is not None:
        properties.CorrelationData = correlation
    if message.user:
        properties.UserProperty = list(message.user)
    if seconds is not None:
        properties.MessageExpiryInterval = seconds
    return properties


class ReadProperties(NamedTuple):
    """Properties of a message: where and how it wants to be answered, None where it does not say, and the user's."""

    response_topic: str | None = None
    correlation: bytes | None = None
    user: UserProperties = ()


_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
"""Bytes of the properties of a PUBLISH that have a fixed length, by their ids."""
_RESPONSE_TOPIC, _CORRELATION, _SUBSCRIPTION, _USER = 0x08, 0x09, 0x0B, 0x26


def read_properties(raw: bytes) -> ReadProperties:
    """Read the properties of a PUBLISH."""
    topic, correlation, user, at = None, None, list[tuple[str, str]](), 0
    while at < len(raw):
        kind, at = raw[at], at + 1
        if kind in _FIXED:
            at += _FIXED[kind]
            continue
        if kind == _SUBSCRIPTION:
            while at < len(raw) and raw[at] >= 0x80:
                at += 1
            at += 1
            continue
        parts = list[bytes]()
        for _part in range(2 if kind == _USER else 1):
            begins = at + 2
            at = begins + int.from_bytes(raw[at:begins], "big")
            parts.append(raw[begins:at])
        if kind == _CORRELATION:
            correlation = parts[0]
        elif kind == _RESPONSE_TOPIC:
            topic = parts[0].decode("utf-8", "replace")
        elif kind == _USER:
            name, value = (part.decode("utf-8", "replace") for part in parts)
            user.append((name, value))
    return ReadProperties(topic, correlation, tuple(user))


def packed(properties: Properties | None) -> bytes:
    """Properties as they came, without their length."""
    raw: bytes = b"" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
    begins = next((at + 1 for at, byte in enumerate(raw[:4]) if byte < 0x80), 0)
    return raw[begins:] if len(raw) <= MOST_PROPERTIES else b""


def limits_of(properties: Properties | None) -> BrokerLimits:
    """Limits that the properties of a CONNACK tell; the others are as the standard has them."""
    unsaid = BrokerLimits()
    return BrokerLimits(
        receive_maximum=getattr(properties, "ReceiveMaximum", unsaid.receive_maximum),
        packet_size=getattr(properties, "MaximumPacketSize", unsaid.packet_size),
        qos=getattr(properties, "MaximumQoS", unsaid.qos),
        retain=getattr(properties, "RetainAvailable", 1) != 0,
        shares=getattr(properties, "SharedSubscriptionAvailable", 1) != 0,
        wildcards=getattr(properties, "WildcardSubscriptionAvailable", 1) != 0,
    )


def reason_in(connack: bytes) -> int | None:
    """The reason code of a CONNACK of MQTT 5 as it came; None if it is not there."""
    return next(iter(connack[_flags(connack) + 1 :]), None)


def _flags(connack: bytes) -> int:
    """Where the flags are: behind the length, which has up to four bytes."""
    return next((place for place in range(2, 6) if connack[place - 1 : place] < b"\x80"), len(connack))


def limits_in(connack: bytes) -> BrokerLimits:
    """Limits in the bytes of a CONNACK of MQTT 5; one that cannot be read, or says no, tells none."""
    flags, properties = _flags(connack), properties_for(PacketTypes.CONNACK)
    if reason_in(connack) != 0:
        return BrokerLimits()
    try:
        properties.unpack(connack[flags + 2 :])  # type: ignore[no-untyped-call]
    except (MQTTException, ValueError, IndexError, KeyError, struct.error):
        return BrokerLimits()
    return limits_of(properties)
