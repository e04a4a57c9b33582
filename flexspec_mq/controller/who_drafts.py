"""Who drafts, as far as the worker decides it, and how far it runs ahead; for all policies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from schemas.messages import MAX_AHEAD

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation, Plan

_ALONE = 2.0, 1.0
"""Tokens that a worker drafts for a verdict: from the first on it has time, and is left to draft alone; below the
second the device drafts as well, since each of its tokens spares a worker with several sessions a forward's share."""
_ASKS = 4
"""Verdicts of a worker that may draft, until it is known whether it does."""
_PROBE = 16
"""A worker that did not draft, or might not, is let again by one plan in so many."""
_TRIP_AGE = 2.0
"""Seconds after which the round trip is asked for where nothing tells it: a link changes within a second, and an
answer costs as much as another verdict."""


class WhoDrafts:
    """What one session's worker does by itself.

    A worker with a draft drafts where that is worth the time of all its sessions. Then tokens never wait for a round
    trip, and drafts of the device would come too late.

    Attributes:
        alone: it has time for drafts, and is left to it.
    """

    __slots__ = ("_idle_at", "_plans", "_verdicts", "alone")

    def __init__(self) -> None:
        self.alone = False
        self._idle_at = 0
        self._plans = 0
        self._verdicts = 0

    def saw(self, seen: Observation) -> None:
        """Judge anew, for one plan more."""
        self._plans += 1
        self._verdicts = seen.worker_verdicts
        above, below = _ALONE
        self.alone = seen.worker_drafted >= (below if self.alone else above)

    @property
    def asks(self) -> bool:
        """Whether to let the worker draft by this plan only to see whether it does."""
        return self._verdicts < _ASKS or self._plans % _PROBE == 0

    def warm(self, plan: Plan, seen: Observation) -> bool:
        """Whether drafts came since the device was to draft again; before, its draft may have a long text to read.

        Args:
            plan: that is to be carried out.
            seen: what is known.
        """
        if not plan.draft_length:
            self._idle_at = seen.drafted
        return seen.drafted > self._idle_at

    def running_ahead(self, plan: Plan) -> Plan:
        """The plan with all the run-ahead that there may be.

        While the link stands no worker gets so far ahead. In an outage it writes on, and all of that is there when
        the link is back. It costs nothing but the tokens of texts that are given up.
        """
        return replace(plan, ahead=MAX_AHEAD, trip_age=_TRIP_AGE)
