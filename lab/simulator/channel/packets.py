"""MQTT's packets: how long they are, and what each quality of service exchanges."""

from __future__ import annotations

from collections.abc import Callable

from lab.simulator.channel.tcp import End

ACK = 4
"""Bytes of PUBACK, PUBREC, PUBREL and PUBCOMP that say that all is well."""
PING = 2
SYN, CONNECT, CONNACK, SUBSCRIBE, SUBACK, BIRTH = 8, 73, 11, 20, 6, 180
"""Bytes beside TCP's headers of what is sent until a node is connected: those of a SYN are options, the birth is its
status."""
_LONG = 128
"""Bytes after which the length of a packet takes one byte more."""


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


def publish(
    sender: End, receiver: End, qos: int, size: int, arrived: Callable[[], None], known: Callable[[], None]
) -> None:
    """Publish over a connection.

    Args:
        sender: end of the sender.
        receiver: the other end.
        qos: 0 to 2.
        size: bytes of the PUBLISH.
        arrived: called when the receiver has the message and hands it on.
        known: called when the sender knows that; never at QoS 0.
    """

    def released() -> None:
        receiver.send(ACK, known)
        arrived()

    def taken() -> None:
        if qos == 2:
            receiver.send(ACK, lambda: sender.send(ACK, released))
        else:
            released()

    sender.send(size, taken if qos else arrived)
