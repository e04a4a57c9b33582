"""What a user asks for on a tour, and what they see: pieces of text, and what the edge node planned meanwhile."""

from __future__ import annotations

import msgspec


class Order(msgspec.Struct, frozen=True):
    """One journey.

    Attributes:
        url: of the edge node's API.
        asked: what the user says, one turn after the other in one conversation, as long as there is time.
        tokens: of a turn's answer at most.
        temperature: of the answers.
        seed: of the first turn; each has one of its own.
        seconds: after which the user goes away, whatever is under way.
        every: seconds between two looks at what the node plans.
    """

    url: str
    asked: tuple[str, ...]
    tokens: int
    temperature: float
    seed: int
    seconds: float
    every: float


class Turn(msgspec.Struct, frozen=True):
    """One answer; times are in seconds of the journey.

    Attributes:
        text: all that came.
        began: asked for.
        pieces: when each piece came; what was committed together comes in one.
        complete: it came to its end.
    """

    text: str
    began: float
    pieces: tuple[float, ...]
    complete: bool


class Look(msgspec.Struct, frozen=True):
    """What the node said at a moment.

    Attributes:
        at: seconds of the journey.
        tokens: committed on it so far.
        connected: to the broker.
        draft_length, in_flight, ahead, worker_draft, qos: of the plan in force; None before any.
        rtt_ms: as the node estimates it.
    """

    at: float
    tokens: int
    connected: bool
    draft_length: int | None = None
    in_flight: int | None = None
    ahead: int | None = None
    worker_draft: int | None = None
    qos: int | None = None
    rtt_ms: float | None = None

    @property
    def who(self) -> str | None:
        """Who drafts by the plan; whether a worker does that may is its own affair. None before any plan."""
        if self.draft_length is None:
            return None
        worker = bool(self.ahead and self.worker_draft)
        if self.draft_length:
            return BOTH if worker else DEVICE
        return WORKER if worker else NOBODY


NOBODY, WORKER, DEVICE, BOTH = "nobody", "worker", "device", "both"
DRAFTERS = (NOBODY, WORKER, DEVICE, BOTH)


class Journey(msgspec.Struct, frozen=True):
    """What came of an `Order`.

    Attributes:
        error: what went wrong; empty if nothing did.
    """

    turns: tuple[Turn, ...]
    looks: tuple[Look, ...]
    error: str = ""
