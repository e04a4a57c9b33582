"""MQTT 5 properties of the packets that we send."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from flexspec_mq.transport.base import MAX_EXPIRY, LinkSettings


def properties_for(packet: int) -> Properties:
    """Empty properties of a packet type."""
    return Properties(packet)  # type: ignore[no-untyped-call]


def will_properties(delay: float) -> Properties | None:
    """Of a will that is delayed by `delay` seconds, rounded up."""
    if delay <= 0:
        return None
    properties = properties_for(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = ceil(delay)
    return properties


def connect_properties(settings: LinkSettings) -> Properties:
    """Of CONNECT."""
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
    """Of a PUBLISH that expires after `expiry` seconds, rounded up to whole ones."""
    return None if expiry is None else _expiry_properties(min(max(1, ceil(expiry)), MAX_EXPIRY))
