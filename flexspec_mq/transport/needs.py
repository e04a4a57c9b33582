"""Abilities of a broker, as its CONNACK tells them, and those that our daemons need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MOST_IN_FLIGHT = 65_535
"""Unacknowledged publishes that a broker takes where its CONNACK names no limit."""


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Abilities that a broker told in CONNACK, or the least that will do.

    Attributes:
        receive_maximum: publishes of QoS ≥ 1 that it takes before it has acknowledged the first.
        packet_size: bytes of a packet at most; None is no limit.
        qos: highest quality of service that it takes.
        retain: whether it keeps retained messages.
        shares: whether it has shared subscriptions.
        wildcards: whether it has filters with ``+``.
    """

    receive_maximum: int = MOST_IN_FLIGHT
    packet_size: int | None = None
    qos: int = 2
    retain: bool = True
    shares: bool = True
    wildcards: bool = True

    def lacking(self, limits: BrokerLimits) -> Iterator[str]:
        """Say what a broker of these limits lacks."""
        if self.shares and not limits.shares:
            yield "it has no shared subscriptions, which spread texts over workers"
        if self.wildcards and not limits.wildcards:
            yield "it has no wildcards in topic filters"
        if self.retain and not limits.retain:
            yield "it keeps no retained messages, by which workers are found"
        if self.qos > limits.qos:
            yield f"it takes QoS {limits.qos} at most, and {self.qos} is needed"
        if limits.packet_size is not None and (self.packet_size or 0) > limits.packet_size:
            yield f"it takes packets of {limits.packet_size} bytes at most, and {self.packet_size} are needed"
        if self.receive_maximum > limits.receive_maximum:
            yield (
                f"it takes {limits.receive_maximum} unacknowledged messages at a time, and "
                f"{self.receive_maximum} are needed"
            )


NOTHING = BrokerLimits(1, 0, 0, retain=False, shares=False, wildcards=False)
"""No needs: whoever looks for what is wrong with a broker connects to any."""

FOR_SESSIONS = BrokerLimits(receive_maximum=8, packet_size=17 * 1024, qos=1)
"""Needs of cloud workers and edge nodes alike: as many batches as a session may have in flight, and the largest status
with its topic."""
