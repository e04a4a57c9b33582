"""How fast a plan will be: the renewal theorem over what happens between two corrections of a draft.

From one correction to the next, everything has its time. The edge learns of the correction half a round trip later,
drafts token after token, and sends a batch whenever one is full and the window allows it. The worker's forwards
follow one another: each verifies what has arrived of the draft, or, where the worker may run ahead, decides one token
without. All of that is the same in each cycle until the draft is wrong, and how far it is right has a known law. So
tokens per second are the expected tokens of a cycle over its expected seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 64
"""Tokens of a cycle that are looked at; a draft is hardly ever right for longer."""
_NEVER = 0.02
"""A cycle that goes on with a smaller probability than this is not followed any further."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a session's rounds consist of, in seconds.

    Attributes:
        round_trip: of the network, without the worker's time.
        forward: of the target, from one of the session's to the next.
        row: that one drafted token more makes a forward longer.
        token: that one drafted token takes the device.
        wait: until a forward begins, for a session that the worker had to wait for; others may be in one.
        acceptance: probability that the i-th drafted token is right given that those before it were; the last one
            holds for all behind it. Not empty.
    """

    round_trip: float
    forward: float
    row: float
    token: float
    acceptance: Sequence[float]
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to expect of a plan, each for one committed token.

    Attributes:
        seconds: from one to the next.
        drafted: tokens that the device drafts, at most.
        rows: of the target.
        verdicts: messages of the worker, one for each forward.
    """

    seconds: float
    drafted: float
    rows: float
    verdicts: float


def streaming(pace: Pace) -> Forecast:
    """The worker decides one token a forward, however long the round trip is."""
    return Forecast(pace.forward, 0.0, 1.0, 1.0)


def asking(pace: Pace) -> Forecast:
    """Nobody drafts, and the worker waits until it is asked for the next token."""
    return Forecast(pace.round_trip + pace.wait + pace.forward, 0.0, 1.0, 1.0)


def drafting(pace: Pace, length: int, window: int, *, ahead: bool) -> Forecast:
    """The device drafts.

    Args:
        pace: of the session.
        length: K, tokens of a batch; at least 1.
        window: W, batches that may be unanswered.
        ahead: the worker goes on while nothing of the draft is there; otherwise it waits.
    """
    way = _Way(pace.round_trip / 2, length, length * pace.token, window)
    acceptance, last = pace.acceptance, len(pace.acceptance) - 1
    tokens = seconds = rows = verdicts = now = 0.0
    place, alive = 0, 1.0  # tokens that are decided, and the probability that the draft was right so far
    while place < _LONGEST and alive > _NEVER:
        here = way.arrived(place, now)
        if here <= place and not ahead:
            coming = way.coming(place)
            if coming is None:
                break  # the edge goes on from what it is told, as from a correction
            begins = max(now, coming) + pace.wait
            seconds += alive * (begins - now)
            now = begins
            here = way.arrived(place, now)
        elif here <= place and way.coming(place) is None:
            break
        fed = max(0, here - place)
        took = pace.forward + fed * pace.row
        now += took
        seconds += alive * took
        rows += alive * (1 + fed)
        verdicts += alive
        for _ in range(fed + 1):
            tokens += alive
            alive *= acceptance[min(place, last)]
            place += 1
        way.decided(place, now)
    # The edge hears of a correction half a round trip late, at the beginning and at the end.
    drafted = min(max(way.sent, window) * length, seconds / max(pace.token, 1e-9))
    return Forecast(seconds / tokens, drafted / tokens, rows / tokens, verdicts / tokens)


class _Way:
    """Batches on their way from the edge to the worker, in one cycle that begins at 0.

    Args:
        half: seconds of a way.
        length: tokens of a batch.
        drafts: seconds that drafting one takes.
        window: batches that may be unanswered.
    """

    __slots__ = ("_answered", "_drafts", "_length", "_ready", "_times", "_window", "half")

    def __init__(self, half: float, length: int, drafts: float, window: int) -> None:
        self.half = half
        self._length = length
        self._drafts = drafts
        self._window = window
        self._ready = half  # when the edge has drafted all that is sent
        self._times: list[float] = []
        self._answered: list[float] = []

    @property
    def sent(self) -> int:
        """Batches."""
        return len(self._times)

    def arrived(self, place: int, now: float) -> int:
        """Tokens of the draft that are at the worker; batches are sent as far as somebody asks."""
        while (
            not self._times or self._times[-1] <= now or self.sent * self._length <= place
        ) and self._send():
            pass
        return sum(1 for at in self._times if at <= now) * self._length

    def coming(self, place: int) -> float | None:
        """When the batch with the token behind `place` arrives; None if the window does not let it go."""
        number = place // self._length
        return self._times[number] if number < self.sent else None

    def decided(self, place: int, now: float) -> None:
        """The worker has decided so many tokens; the edge learns of it."""
        while len(self._answered) < self.sent and place >= (len(self._answered) + 1) * self._length:
            self._answered.append(now + self.half)

    def _send(self) -> bool:
        before = self.sent - self._window
        if before >= len(self._answered):
            return False
        let = self._answered[before] if before >= 0 else 0.0
        self._ready = max(self._ready + self._drafts, let)
        self._times.append(self._ready + self.half)
        return True
