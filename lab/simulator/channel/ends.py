"""Who stands at the ends of a simulated channel, and what it carried for them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from schemas.messages import Close, Draft, Error, Open, Poll, Verdict


class Traffic(msgspec.Struct):
    """Payload of MQTT, both ways.

    Attributes:
        sent, received: messages.
        up, down: bytes.
        qos: messages that the device published, by quality of service.
        breaks: connections that broke.
    """

    sent: int = 0
    received: int = 0
    up: int = 0
    down: int = 0
    breaks: int = 0
    qos: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])


class Device(Protocol):
    """The end of a channel that publishes drafts."""

    @property
    def name(self) -> str:
        """On topics."""
        ...

    def receive(self, message: Verdict | Error) -> None:
        """A message has come."""
        ...

    def link_up(self) -> None:
        """The broker is reachable."""
        ...

    def link_down(self) -> None:
        """The broker is out of reach."""
        ...

    def acknowledged(self, qos: int, seconds: float, size: int) -> None:
        """The broker has a message of so many bytes, so long after it was handed to the link."""
        ...

    def received(self, size: int) -> None:
        """A payload of so many bytes has come."""
        ...


class Worker(Protocol):
    """Who gets them."""

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        ...
