"""What the device can do where the worker does not draft by itself, and what each is expected to take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, log
from typing import TYPE_CHECKING

from flexspec_mq.controller.explain import device_drafts, nobody_drafts
from flexspec_mq.controller.forecast import Forecast, Pace, asking, drafting, streaming

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation

LENGTHS = 1, 2, 3, 4, 6, 8, 12, 16
"""K that are considered."""
_WINDOWS = 1, 2, 3
"""W that are considered."""
ROW = 0.01
"""What a drafted token is taken to add to a forward of the target, as a share, before it was measured."""
_LATE = 0.0, 0.12, 0.25
"""How much later batches may come than expected, as shares of a forward."""
_READ = 1 / 40
"""What a token of a prompt is taken to cost the worker's draft, as a share of a forward of the target."""
TEXT = 128
"""Tokens that a text is taken to go on for, at most."""
TAKES = 0.5
"""Share of a device's drafts that a worker takes if it has time for them: now and then it puts some off."""
_TAKEN = 0.2
"""Share of drafts below which a worker is too busy for any."""
_TOGETHER = 0.25
"""Share of a forward in which a drafter that several texts share has a token for each: it is not only late for more,
but takes time from the processor that reads their verdicts, or even verifies."""
_FINE = 0.04
"""Estimates that differ by less than such a share are taken for the same, so that forecasts can be kept."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How drafts are made.

    Attributes:
        length: K; 0 leaves drafting to the worker.
        window: W.
        ahead: the worker may run ahead.
    """

    length: int
    window: int
    ahead: bool

    @property
    def name(self) -> str:
        """For people."""
        if not self.length:
            return nobody_drafts(ahead=self.ahead)
        return device_drafts(self.length, self.window, ahead=self.ahead)

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether the device drafts, and whether the worker runs ahead."""
        return self.length > 0, self.ahead


NOBODY = Choice(0, 1, True)
"""The device does not draft, and the worker goes on by itself."""


@lru_cache
def choices(most: int, *, may_run_ahead: bool) -> tuple[Choice, ...]:
    """All that may be chosen, with K up to `most`, 1 at least; those that cost the device least come first."""
    lengths = [length for length in LENGTHS if length <= most]
    waiting = [Choice(length, 1, False) for length in lengths]
    if not may_run_ahead:
        return tuple(waiting)
    return (NOBODY, *waiting, *(Choice(length, window, True) for length in lengths for window in _WINDOWS))


@lru_cache(maxsize=4096)
def forecast(choice: Choice, pace: Pace) -> Forecast:
    """What to expect of a choice; kept, as a pace comes again and again.

    A batch that just comes in time for a forward misses it where anything takes a little longer. So a forecast is the
    mean of several, of which all but the first have every batch come later. One that waits for drafts misses none.
    """
    if not choice.length:
        return streaming(pace) if choice.ahead else asking(pace)
    found = [
        drafting(
            replace(pace, round_trip=pace.round_trip + late * pace.forward),
            choice.length,
            choice.window,
            ahead=choice.ahead,
        )
        for late in (_LATE if choice.ahead else _LATE[:1])
    ]
    return Forecast(
        sum(one.seconds for one in found) / len(found),
        sum(one.drafted for one in found) / len(found),
        sum(one.rows for one in found) / len(found),
        sum(one.verdicts for one in found) / len(found),
    )


def pace_of(seen: Observation, wait: float = 0.0) -> Pace | None:
    """The pace of a session, as far as it is known, in steps of a few percent.

    Args:
        seen: by its node.
        wait: see `Pace`.
    """
    forward = forward_of(seen)
    token = _token(seen)
    if seen.rtt is None or not forward or token is None:
        return None
    row = ROW * forward if seen.row_cost is None else seen.row_cost
    # What a worker puts off is worth nothing, whether it would have been right or not.
    taken = round(min(1.0, seen.taken / TAKES), 1)
    acceptance = tuple(round(taken * share, 1 if place else 2) for place, share in enumerate(seen.acceptance))
    return Pace(_rough(seen.rtt), _rough(forward), _rough(row), _rough(token), acceptance, _rough(wait))


def too_busy(seen: Observation) -> bool:
    """Whether the worker takes hardly any of the drafts that it is sent; messages for nothing take its time, too."""
    return seen.taken < _TAKEN


def crowded(seen: Observation) -> bool:
    """Whether the node writes so many texts that its drafter has no time for all of them, or nobody knows it has."""
    if seen.sessions == 1:
        return False
    token = _token(seen)
    return token is None or token > _TOGETHER * forward_of(seen)


def _token(seen: Observation) -> float | None:
    """Seconds of a drafted token, all of the node's texts drafting; a guess before one was timed."""
    if seen.draft_time is not None:
        return seen.draft_time
    return None if seen.draft_told is None else seen.sessions * seen.draft_told


def forward_of(seen: Observation) -> float:
    """Seconds of a forward of the target, as far as this session or those before it know; 0 before any."""
    return seen.forward or seen.compute or seen.compute_mean or 0.0


def by_worker(seen: Observation) -> float:
    """Seconds of a token where the worker drafts as it does, and has read the prompt for that."""
    if seen.own_forward is not None and seen.own_tokens:
        return seen.own_forward / seen.own_tokens
    right = sum(seen.acceptance) / len(seen.acceptance)  # it has the device's draft
    return (seen.compute or forward_of(seen)) / (1.0 + right * seen.worker_drafted)


def reading(seen: Observation) -> float:
    """Seconds of a token that it takes the worker's draft to read the prompt first, spread over the text."""
    takes = seen.own_read
    if takes is None:
        takes = _READ * seen.prompt * forward_of(seen)
    return takes / max(1, min(seen.remaining, TEXT))


def _rough(seconds: float) -> float:
    if seconds < 1e-5:
        return 0.0
    return exp(round(log(seconds) / _FINE) * _FINE)
