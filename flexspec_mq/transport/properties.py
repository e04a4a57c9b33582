"""MQTT 5 properties of the packets that we send, and what those of a CONNACK say."""

from __future__ import annotations

import struct
from functools import lru_cache
from math import ceil

from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from flexspec_mq.transport.base import MAX_EXPIRY, LinkSettings
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


def publish_properties(expiry: float | None) -> Properties | None:
    """Properties of a PUBLISH that expires after `expiry` seconds, rounded up to whole ones."""
    return None if expiry is None else _expiry_properties(min(max(1, ceil(expiry)), MAX_EXPIRY))


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
