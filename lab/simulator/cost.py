"""Costs of forwards in milliseconds."""

from typing import NamedTuple

import msgspec


class DraftForward(NamedTuple):
    """A forward of a draft.

    Attributes:
        sessions: sessions that share it.
        read: tokens of prompts that it reads, beyond one for each session that it gives a token.
    """

    sessions: int
    read: int = 0


class TargetForward(NamedTuple):
    """A forward of the target.

    Attributes:
        sessions: sessions that it decides.
        rows: rows of these: one each, and one for each drafted token.
        read: tokens of prompts that it reads beside.
    """

    sessions: int
    rows: int
    read: int = 0


class DraftTimes(msgspec.Struct, frozen=True, kw_only=True):
    """A draft on a processor, in milliseconds.

    Attributes:
        token: a token of one session, behind a short context.
        session: time that each further session adds.
        read: time that each further token that it reads adds.
    """

    token: float
    session: float = 0.0
    read: float = 0.0

    def call(self, one: DraftForward) -> float:
        """Milliseconds of a forward."""
        return self.token + (one.sessions - 1) * self.session + one.read * self.read


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """A worker and its edges, in milliseconds.

    Attributes:
        token: a forward that decides one session by one row.
        session: time that each further session adds to it.
        row: time that each row beyond one of a session adds.
        read: time that each token of a prompt adds that it reads.
        step: time that a worker spends on a step beside the forwards.
        draft: beside the target.
        device: the draft of an edge.
        request: time that an edge spends on a request beside drafting, before it asks a worker.
        broker: time of a message from device to worker or back, beside its link.
    """

    token: float
    session: float = 0.0
    row: float = 0.0
    read: float = 0.0
    draft: DraftTimes
    device: DraftTimes
    step: float = 0.0
    request: float = 0.0
    broker: float = 0.25

    def forward(self, one: TargetForward) -> float:
        """A forward of the target."""
        further = max(0, one.sessions - 1) * self.session + (one.rows - one.sessions) * self.row
        return self.token + further + (one.read if one.sessions else one.read - 1) * self.read
