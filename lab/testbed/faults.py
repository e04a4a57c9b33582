"""Faults for the in-memory broker: one fault, one small class.

A fault answers, for each message on each hop, after how many seconds copies of it arrive: ``()`` loses it,
``(0.0,)`` leaves it alone, two entries duplicate it. Several faults act one after the other, and each may be
added to or taken from `MemoryBroker.faults` while messages flow.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from paho.mqtt.client import topic_matches_sub


class Direction(Enum):
    """Direction of a hop, as seen from the clients."""

    UP = "client to broker"
    DOWN = "broker to client"


@dataclass(frozen=True, slots=True)
class Hop:
    """A message between a client and the broker.

    Attributes:
        cut: loses the client's connection.
    """

    direction: Direction
    client_id: str
    topic: str
    payload: bytes
    cut: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which hops a fault touches.

    Attributes:
        topic: a topic filter.
        direction: None is both.
        client_id: None is every client.
    """

    topic: str = "#"
    direction: Direction | None = None
    client_id: str | None = None

    def holds(self, hop: Hop) -> bool:
        """Whether `hop` is touched."""
        return (
            self.direction in (None, hop.direction)
            and self.client_id in (None, hop.client_id)
            and topic_matches_sub(self.topic, hop.topic)
        )


EVERYTHING = Scope()


class Fault(Protocol):
    """Fault that may happen to a message on a hop."""

    def arrivals(self, hop: Hop) -> Sequence[float]:
        """Seconds after which each copy arrives; none at all is a loss."""
        ...


@dataclass(slots=True)
class Drop:
    """Loses a share of the messages."""

    rate: float
    rng: random.Random
    scope: Scope = EVERYTHING
    hits: int = field(default=0, init=False)

    def arrivals(self, hop: Hop) -> Sequence[float]:
        """Nothing, or the message."""
        if not self.scope.holds(hop) or self.rng.random() >= self.rate:
            return (0.0,)
        self.hits += 1
        return ()


@dataclass(slots=True)
class Duplicate:
    """Delivers a share of the messages twice, the second time up to `within` seconds later."""

    rate: float
    rng: random.Random
    scope: Scope = EVERYTHING
    within: float = 0.0
    hits: int = field(default=0, init=False)

    def arrivals(self, hop: Hop) -> Sequence[float]:
        """The message once or twice."""
        if not self.scope.holds(hop) or self.rng.random() >= self.rate:
            return (0.0,)
        self.hits += 1
        return (0.0, self.rng.uniform(0.0, self.within))


@dataclass(slots=True)
class Delay:
    """Delays messages by `seconds` ± `jitter`. Jitter reorders them."""

    seconds: float
    rng: random.Random
    scope: Scope = EVERYTHING
    jitter: float = 0.0
    hits: int = field(default=0, init=False)

    def arrivals(self, hop: Hop) -> Sequence[float]:
        """The message, later."""
        if not self.scope.holds(hop):
            return (0.0,)
        self.hits += 1
        return (max(0.0, self.seconds + self.rng.uniform(-self.jitter, self.jitter)),)


@dataclass(slots=True)
class Cut:
    """Loses the connection, and the message with it, at each `every`-th one in scope."""

    every: int
    scope: Scope = EVERYTHING
    seen: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)

    def arrivals(self, hop: Hop) -> Sequence[float]:
        """Nothing after a cut, else the message."""
        if not self.scope.holds(hop):
            return (0.0,)
        self.seen += 1
        if self.seen % self.every:
            return (0.0,)
        self.hits += 1
        hop.cut("cut by a fault")
        return ()


def through(faults: Sequence[Fault], hop: Hop) -> list[float]:
    """Seconds after which copies arrive that went through all of `faults`."""
    copies = [0.0]
    for fault in faults:
        copies = [before + after for before in copies for after in fault.arrivals(hop)]
    return copies
