"""All ways to make drafts, and what one of them is expected to take for a token."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from flexspec_mq.controller.round_model import Forecast, RoundTimes, asking, drafting, streaming

if TYPE_CHECKING:
    from flexspec_mq.controller.observation import Observation

LENGTHS = 1, 2, 4, 8, 16
"""K that are considered; finer steps change seconds by less than 1 % in simulated time."""
WINDOWS = 1, 2, 3
ROW = 0.01
"""Share of a forward that a drafted token adds to it, where the worker does not say: that of a large target."""
_LATE = 0.12
"""Share of a forward by which batches are taken to be late: one that would just come in time misses it where anything
takes longer."""
_READ = 1 / 40
"""Share of a forward of the target that a token of a prompt is taken to cost the worker's draft."""
TEXT = 128
"""Tokens that a text is taken to go on for, at most: longer forecasts are about other texts."""


class Drafting(msgspec.Struct, frozen=True):
    """How drafts are made.

    Attributes:
        length: K; 0 leaves drafting to the worker.
        window: W.
        ahead: the worker may run ahead.
    """

    length: int
    window: int
    ahead: bool


NOBODY = Drafting(0, 1, True)
"""The device does not draft, and the worker goes on by itself."""
ASKING = Drafting(0, 1, False)
"""Nobody drafts, and the worker waits to be asked: where it may not run ahead."""


@lru_cache
def plan_space(most: int, *, ahead: bool, waits: bool = True) -> tuple[Drafting, ...]:
    """All drafting on the device, with K up to `most`, 1 at least; that which costs it least comes first.

    Args:
        most: tokens of a batch.
        ahead: the worker may run ahead.
        waits: true if it may wait for drafts.
    """
    lengths = [length for length in LENGTHS if length <= max(1, most)]
    waiting = [Drafting(length, 1, False) for length in lengths] if waits or not ahead else []
    running = [Drafting(length, window, True) for length in lengths for window in WINDOWS] if ahead else []
    return (*waiting, *running)


def round_times(seen: Observation, *, token: float | None = None) -> RoundTimes | None:
    """Times of a session's rounds; None while round trip, forward or draft are unknown.

    Args:
        seen: observation of its node.
        token: time of a drafted token where that is unknown.
    """
    if seen.draft_time is not None:
        token = seen.draft_time
    forward = seen.forward
    if seen.rtt is None or not forward or token is None:
        return None
    row = ROW * forward if seen.row_cost is None else seen.row_cost
    return RoundTimes(seen.rtt, forward, row, token, seen.acceptance, seen.queueing_delay)


def forecast(way: Drafting, times: RoundTimes) -> Forecast:
    """Forecast of a way to make drafts."""
    if not way.length:
        return streaming(times) if way.ahead else asking(times)
    late = _LATE * times.forward if way.ahead else 0.0
    return drafting(times, way.length, way.window, ahead=way.ahead, late=late)


def worker_token(seen: Observation) -> float:
    """Seconds of a token where the worker drafts as it does, and has read the prompt for that."""
    worker = seen.worker
    if worker.forward is not None and worker.tokens:
        return worker.forward / worker.tokens
    right = sum(seen.acceptance) / len(seen.acceptance)  # it has the device's draft
    return seen.forward / (1.0 + right * worker.per_verdict)


def worker_reading(seen: Observation) -> float:
    """Seconds of a token that the worker's draft takes to read the prompt first, spread over the text."""
    unread = seen.worker.unread
    if unread is None:
        unread = _READ * seen.prompt * seen.forward
    return unread / max(1, min(seen.remaining, TEXT))
