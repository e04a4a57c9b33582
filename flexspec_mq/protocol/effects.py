"""Effects that the machines ask of their driver, which does them in order, and reports nothing back unless stated."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from flexspec_mq.errors import FlexSpecError
from schemas.messages import Close, Delivery, Draft, Error, Open, Poll, Verdict
from schemas.openai import Writer

SessionKey = tuple[str, int]
"""(edge, session): a worker's name for a session. The edge comes from the topic, so it cannot be forged."""


Origin = Literal["model", "lookup", "grammar"]
"""Who drafted a token: the draft model, a lookup in the session's own tokens, or a grammar that allows no other."""
_WRITERS: dict[Origin | Literal["worker", "cloud"] | None, Writer] = {
    "model": "device",
    "lookup": "lookup",
    "grammar": "grammar",
    "worker": "worker",
    "cloud": "cloud",
    None: "target",
}


class FinishReason(StrEnum):
    """Why a text ended. Nothing but the text itself is ever `EOS`, `STOP` or `LENGTH`.

    `PROVISIONAL`: its patience or time is over, and behind what is committed stands what the draft wrote alone.
    """

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEADLINE = "deadline"
    PROVISIONAL = "provisional"


@dataclass(frozen=True, slots=True)
class Send:
    """Edge: publish a message.

    Attributes:
        to_worker: whose draft topic; None is the shared open topic of the session's version. If the broker says that
            nobody subscribes there, the driver calls `EdgeSession.no_worker`; if it says so of an open to a worker's
            own topic, `EdgeSession.prefix_lost`.
        qos: MQTT quality of service, 0 to 2.
        expiry: seconds after which the broker may drop the message; None is never.
    """

    to_worker: str | None
    message: Open | Draft | Poll | Close
    qos: int
    expiry: float | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Edge: these tokens are decided, for good. Show them.

    Attributes:
        start: position of the first one.
        tokens: at least one.
        origins: per token, who had drafted it before the verdict came: this edge or, by the verdict's own count,
            the worker; None where nobody had, and the target wrote it; ``cloud`` where a verdict of several forwards
            does not tell the two apart.
    """

    start: int
    tokens: tuple[int, ...]
    origins: tuple[Origin | Literal["worker", "cloud"] | None, ...]

    @property
    def writers(self) -> tuple[Writer, ...]:
        """Per token, who wrote it."""
        return tuple(_WRITERS[origin] for origin in self.origins)


@dataclass(frozen=True, slots=True)
class ProvisionalDraft:
    """Edge: the draft wrote these while nobody answered. They may be shown as unverified, and are no answer.

    Attributes:
        start: position of the first one. At the end of what is committed they take the place of all that was
            provisional before; without tokens nothing is any more.
        tokens: ids, which stand until a commit differs from them.
    """

    start: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Edge: the session is over; the last effect that it ever gives, apart from closing zombies.

    Attributes:
        error: error to tell the user, set when the reason is `FAILED`.
    """

    reason: FinishReason
    error: FlexSpecError | None = None


Effect = Send | Commit | ProvisionalDraft | Finish


@dataclass(frozen=True, slots=True)
class Reply:
    """Worker: publish on the edge's verdict topic.

    Attributes:
        qos: level of the edge's newest message.
    """

    edge: str
    message: Verdict | Error
    qos: int


@dataclass(frozen=True, slots=True)
class Free:
    """Worker: give back all that the engine holds for this session. May name one that it holds nothing for."""

    key: SessionKey


@dataclass(frozen=True, slots=True)
class ReleaseToCache:
    """Worker: the text of this session is over. Its KV cache may serve another, and is the first to go."""

    key: SessionKey


@dataclass(frozen=True, slots=True)
class Transfer:
    """Worker: what the engine holds for `source`, if anything, is of use for `key`, whose text begins alike.

    Attributes:
        shared: tokens that both begin with, where the text of `source` stays for others; None moves all of it.
    """

    source: SessionKey
    key: SessionKey
    shared: int | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """Worker: have the broker keep this answer for its edge. The driver calls `WorkerMachine.undelivered` if it cannot.

    Attributes:
        message: answer; None has the broker forget the one that it keeps.
        keep: seconds after which the broker may drop it.
    """

    key: SessionKey
    message: Delivery | None
    keep: int = 0


WorkerEffect = Reply | Free | ReleaseToCache | Transfer | Deliver
