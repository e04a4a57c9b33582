"""Meaning of a broker's refusals for the user."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from flexspec_mq.errors import LinkDown, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    NOT_AUTHORIZED,
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    QUOTA_EXCEEDED,
    RETAIN_NOT_SUPPORTED,
    LinkSettings,
)
from flexspec_mq.transport.needs import NOTHING, BrokerLimits

UNSUPPORTED_VERSION = 0x84
_GOOD_ONES: Final = "Mosquitto 2, EMQX, VerneMQ or HiveMQ"
_BAD_LOGIN = 0x86
_TEMPORARY = {
    0x80: "an unspecified error",
    0x83: "an error of its own implementation",
    0x88: "it is not available now",
    0x89: "it is busy",
    0x97: "its quota is used up",
    0x9F: "too many connections at a time",
}
NO_SUCH_FILTERS = {
    0x9E: "this broker has no shared subscriptions, which workers need",
    0xA2: "this broker has no wildcards in topic filters, which workers need",
}
"""Reason codes by which a broker refuses filters of a kind, in SUBACK or by ending the connection, and hints."""
_ANONYMOUS = "this broker may not allow anonymous clients: give --username and --password-file"
_LOGIN = (
    "check user name and password; if they were good before, this client was revoked, has new ones since `rotate`, "
    "or is banned for a while as it went beyond a limit: ask whoever runs the broker"
)
_HINTS = {
    0x85: "choose another client id",
    0x8A: "the broker's operator banned this client",
    0x9C: "the broker wants another server to be used",
    0x9D: "the broker moved",
}


def no_mqtt5(settings: LinkSettings) -> LinkRefused:
    """The error for a broker that speaks only older versions."""
    return LinkRefused(
        f"the broker at {settings.address} does not speak MQTT 5",
        hint=f"use one that does, such as {_GOOD_ONES}; `flexspec-broker run` starts one",
    )


def poor_broker(settings: LinkSettings, lacking: Sequence[str]) -> LinkRefused:
    """The error for a broker that lacks what is needed, by its own words."""
    return LinkRefused(
        f"the broker at {settings.address} cannot do what is needed: {'; '.join(lacking)}",
        hint=f"change its settings, or use another, such as {_GOOD_ONES}; `flexspec-broker check` tries them",
    )


def connect_refusal(settings: LinkSettings, code: int | ReasonCode | None) -> LinkDown | LinkRefused:
    """The error for a CONNACK that says no: `LinkDown` where later may be better."""
    number = code.value if isinstance(code, ReasonCode) else code or 0x80
    if number == UNSUPPORTED_VERSION:
        return no_mqtt5(settings)
    if number == RETAIN_NOT_SUPPORTED:
        return poor_broker(settings, list(replace(NOTHING, retain=True).lacking(BrokerLimits(retain=False))))
    if number == QOS_NOT_SUPPORTED:
        return poor_broker(settings, list(replace(NOTHING, qos=1).lacking(BrokerLimits(qos=0))))
    if number in _TEMPORARY:
        return LinkDown(f"the broker at {settings.address} cannot serve us: {_TEMPORARY[number]}")
    with suppress(ValueError):
        code = ReasonCode(PacketTypes.CONNACK, identifier=number)
    who = "an anonymous client" if settings.username is None else f"user {settings.username!r}"
    login = _ANONYMOUS if settings.username is None else _LOGIN
    return LinkRefused(
        f"the broker at {settings.address} refuses {who}: {code} (0x{number:02x})",
        hint=login if number in (_BAD_LOGIN, NOT_AUTHORIZED) else _HINTS.get(number, "see the broker's log"),
    )


def subscribe_refusal(settings: LinkSettings, topic_filter: str, code: int) -> LinkRefused:
    """The error for a SUBACK that says no."""
    return LinkRefused(
        f"the broker at {settings.address} refuses the subscription {topic_filter} (0x{code:02x})",
        hint=NO_SUCH_FILTERS.get(code, "check the access rules of this user"),
    )


def publish_refusal(topic: str, code: int) -> PublishRefused:
    """The error for an acknowledgement that says no."""
    message, hint = {
        NO_SUBSCRIBERS: (f"nobody subscribes to {topic}", ""),
        NOT_AUTHORIZED: (f"the broker forbids publishing on {topic}", "check the access rules of this user"),
        PACKET_TOO_LARGE: (f"a message for {topic} is larger than the broker takes", ""),
        QUOTA_EXCEEDED: (f"the broker's quota is used up; {topic} was not published", ""),
    }.get(code, (f"the broker refused a message for {topic} (0x{code:02x})", "see the broker's log"))
    return PublishRefused(message, reason_code=code, hint=hint)
