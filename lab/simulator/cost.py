"""Costs of forwards in milliseconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
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


class CostCurve(msgspec.Struct, frozen=True):
    """A measured curve, straight between its points and beyond the last two.

    Attributes:
        at: rising, at least one.
        ms: at each of them.
    """

    at: tuple[float, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no curve.

        Raises:
            ValueError: of other lengths, or not rising.
        """
        rises = all(before < after for before, after in zip(self.at, self.at[1:], strict=False))
        if not self.at or len(self.at) != len(self.ms) or not rises:
            raise ValueError("a curve needs as many times as places, and places that rise")

    def __call__(self, place: float) -> float:
        """Milliseconds there; before the first point, those of the first."""
        low, share = _between(self.at, place)
        if not share:
            return self.ms[low]
        return self.ms[low] + share * (self.ms[low + 1] - self.ms[low])


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


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A worker and its edges as they were measured, in milliseconds.

    Attributes:
        sessions: sessions of the columns of `rows`, rising.
        rows: a forward over each such number of sessions, by rows of each session, without their contexts.
        read: a forward that reads so many tokens of one prompt and decides nothing.
        beside: a forward that decides some sessions and reads a prompt beside them, by the rows of both together.
        delay: on top of each forward, as a bigger target has it.
        step: time that a worker spends on a step beside the forwards.
        draft: beside the target.
        device: the draft of an edge.
        request: time that an edge spends on a request beside drafting, before it asks a worker.
        broker: time of a message from device to worker or back, beside its link.
    """

    sessions: tuple[float, ...]
    rows: tuple[CostCurve, ...]
    read: CostCurve
    beside: CostCurve
    draft: DraftTimes
    device: DraftTimes
    delay: float = 0.0
    step: float = 0.0
    request: float = 0.0
    broker: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no table.

        Raises:
            ValueError: as many curves as numbers of sessions are needed.
        """
        if not self.sessions or len(self.sessions) != len(self.rows):
            raise ValueError("a table of forwards needs a curve for each number of sessions")

    def forward(self, one: TargetForward) -> float:
        """A forward of the target."""
        if not one.sessions:
            return self.delay + self.read(one.read)
        low, share = _between(self.sessions, one.sessions)
        each = one.rows / one.sessions
        here = self.rows[low](each)
        if share:
            here += share * (self.rows[low + 1](each) - here)
        return self.delay + here + max(0.0, self.beside(one.rows + one.read) - self.beside(one.rows))

    def call(self, one: DraftForward) -> float:
        """A forward of the draft beside the target."""
        return self.draft.call(one)


def _between(places: Sequence[float], place: float) -> tuple[int, float]:
    """The point at or before a place, and how far on to the next it lies; more than 1 beyond the last."""
    if place <= places[0] or len(places) == 1:
        return 0, 0.0
    low = min(bisect_right(places, place), len(places) - 1) - 1
    return low, (place - places[low]) / (places[low + 1] - places[low])
