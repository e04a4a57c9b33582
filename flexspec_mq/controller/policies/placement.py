"""Who drafts: the worker while it does, else the device; and how far the worker runs ahead of a long round trip."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from flexspec_mq.controller.plan import Observation, Plan
from schemas.messages import MAX_AHEAD

_ALONE = 2.0, 1.0
"""Tokens that a worker drafts for a verdict: from the first on it has time, and is left to draft alone; below the
second the device drafts as well, since each of its tokens spares a worker with several sessions a forward's share."""
_STREAM = 32
"""Run-ahead where the device does not draft, at least: credit is sent for each half of it."""
_ROOM = 6
"""Run-ahead beyond that, for drafts of the worker's own."""
_GRAIN = 8
"""Run-ahead comes in steps of so many tokens, so that a new one is seldom sent."""


@dataclass(slots=True)
class PlacementPolicy:
    """The default plan: a few lines from round trip, time of a forward, and what the worker says about drafts.

    A worker with a draft drafts where that is worth the time of all its sessions. Then tokens never wait for a round
    trip, and drafts of the device would come too late: it saves them. Where the worker drafts hardly anything, as it
    has no draft or too much to do, the device drafts, unless that would come too late all the same, and run-ahead
    covers the round trips.

    Attributes:
        base: everything else of the plan. Its draft length is the most that a batch has, its run-ahead the least.
    """

    base: Plan
    _alone: bool = False
    _ahead: int = field(default=0)

    def plan(self, seen: Observation) -> Plan:
        """The base, with who drafts and how far ahead."""
        base = self.base
        if not base.ahead:
            return base
        above, below = _ALONE
        self._alone = seen.worker_drafted >= (below if self._alone else above)
        length = base.draft_length
        if seen.granted is not None:
            length = min(length, seen.granted)
        if self._alone or _too_late(seen, length):
            length = 0
        least = base.ahead if length else max(base.ahead, _STREAM)
        self._ahead = max(self._ahead, _reach(seen))
        return replace(base, draft_length=length, ahead=min(MAX_AHEAD, max(least, self._ahead)))


def _too_late(seen: Observation, length: int) -> bool:
    """Whether the worker, which runs ahead, has decided a batch's tokens but for one by the time that they arrive."""
    if seen.rtt is None or not seen.compute or not seen.draft_time:
        return False
    forwards = (seen.rtt + length * seen.draft_time) / seen.compute
    return length < 2 + forwards


def _reach(seen: Observation) -> int:
    """Tokens that a worker that drafts decides in two round trips, in whole grains; 0 while that is unknown."""
    if seen.rtt is None or not seen.compute:
        return 0
    tokens = 2 * seen.rtt / seen.compute * (1 + max(seen.worker_drafted, _ALONE[0])) + _ROOM
    return _GRAIN * ceil(min(tokens, MAX_AHEAD) / _GRAIN)
