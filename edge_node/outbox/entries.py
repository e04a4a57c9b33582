"""A request in the journal: as it came, how far its text is, and what a restarted node needs to go on with it."""

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import msgspec

from flexspec_mq.errors import FlexSpecError
from flexspec_mq.protocol.effects import Commit, Origin
from schemas.messages import Sampling
from schemas.openai import Offline

State = Literal["queued", "writing", "stale", "done", "failed"]
"""Queued before its first token; stale: queued for so long that its user is asked; failed: by an error."""
STARTS = 1024
"""Starts of a node that one text outlives at most: attempts and counters of messages go on by 2^16 and 2^22 with
each, and have 32 bits."""

ORIGINS: tuple[Origin | Literal["worker", "cloud"] | None, ...] = (
    None, "model", "lookup", "grammar", "worker", "cloud",
)  # fmt: skip
"""Origins of tokens, by their codes in the file: append only."""
_CODES = {origin: code for code, origin in enumerate(ORIGINS)}


class OutboxError(FlexSpecError):
    """The outbox cannot be read, or cannot persist what it is given."""


class OutboxFull(OutboxError):
    """The outbox holds as much as it may, and nothing of it was read."""


class NoRoom(OutboxError):
    """The disk of the outbox is full: what is there can be read and dropped, and nothing can be added."""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The values that fix a text, and by which its session goes on: known from its first open on.

    Attributes:
        session: number of the session.
        version: target version.
        sampling: how its tokens are chosen, recommendations of the target's makers applied.
        limit: tokens at most.
        engine: name and version of the reader of grammars.
        root: digest of the chain before the first token, which covers the prompt.
        private: X25519 key of the session; empty without keys.
        secret: secret by which its request is sealed, where that is a blob; empty without keys.
    """

    session: int
    version: str
    sampling: Sampling
    limit: int
    root: int
    engine: str = ""
    private: bytes = b""
    secret: bytes = b""

    @classmethod
    def read(cls, row: bytes) -> Self:
        """Read what the journal has of a session; rows before `min_p` have the three values of sampling by name."""
        facts = msgspec.json.decode(row)
        if "sampling" not in facts:
            facts["sampling"] = [facts[name] for name in ("temperature", "top_k", "top_p")]
        return msgspec.convert(facts, cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A request.

    Attributes:
        id: id of its text.
        key: idempotency key of the client, or one that was drawn.
        digest: digest of endpoint and body, in canonical form.
        path: endpoint that reads the body.
        body: the request's body.
        client: who asks, as far as can be told.
        choice: which of the request's texts, from 0.
        mode: offline mode.
        accepted: when it was, in seconds since the Unix epoch.
        state: how far it is.
        restarts: starts of the node since it was accepted.
        opened: values of its session; None before it is open.
        error: reason of its failure, or of its waiting for its user; empty otherwise.
        finished: when it was done or failed, in seconds since the Unix epoch.
        read: somebody has read the answer to its end.
        tokens: committed ones in the journal, while it is unfinished.
    """

    id: str
    key: str
    digest: bytes
    path: str
    body: bytes
    client: bytes = b""
    choice: int = 0
    mode: Offline = "hold"
    accepted: float
    state: State = "queued"
    restarts: int = 0
    opened: Opening | None = None
    error: str = ""
    finished: float | None = None
    read: bool = False
    tokens: int = 0

    @property
    def unfinished(self) -> bool:
        """Whether its text is still to be written, or to be written on."""
        return self.finished is None

    def is_old(self, now: float, age: float, delivery: float) -> bool:
        """Whether it waits for its first token since long ago.

        Args:
            now: time of the journal.
            age: seconds after which it does.
            delivery: the same of what a worker may have written, and left at the broker.
        """
        age = max(age, delivery) if self.mode == "deliver" and self.opened is not None else age
        return self.unfinished and not self.tokens and now - self.accepted > age


def packed(commits: Sequence[Commit]) -> bytes:
    """Commits that follow each other: where they begin, their tokens, and the origin of each as a byte."""
    ids = array("I", (token for commit in commits for token in commit.tokens))
    if sys.byteorder == "big":
        ids.byteswap()
    codes = bytes(_CODES[origin] for commit in commits for origin in commit.origins)
    return commits[0].start.to_bytes(4, "little") + ids.tobytes() + codes


def unpacked(data: bytes) -> Commit:
    """The same, as one commit."""
    count = (len(data) - 4) // 5
    ids = array("I", data[4 : 4 + 4 * count])
    if sys.byteorder == "big":
        ids.byteswap()
    return Commit(
        int.from_bytes(data[:4], "little"), tuple(ids), tuple(ORIGINS[code] for code in data[-count:])
    )
