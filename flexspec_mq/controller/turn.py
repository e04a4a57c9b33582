"""What a session that waits for its drafts waits at the worker for its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation, Plan

_SETTLED = 2
"""Verdicts after a plan without run-ahead that may still be of a worker that ran ahead."""
_FORGET = 0.03
"""How much is forgotten with each verdict while the worker does not wait, so that it is tried again some day."""
_NEWEST = 0.25
"""Weight of the newest sample."""


class Turn:
    """Seconds from a batch's arrival to its forward, where the worker has waited for the batch.

    Only then is that a wait for others. A batch that finds the worker ahead waits for a forward of its own session,
    which would not be there if the worker waited.

    Attributes:
        seconds: 0 before any was seen.
    """

    __slots__ = ("_committed", "_known", "_verdicts", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known = False
        self._verdicts: int | None = None  # since the worker waits
        self._committed = 0

    def saw(self, seen: Observation) -> None:
        """Take what is known before the next plan."""
        more, self._committed = seen.committed > self._committed, seen.committed
        if not more:
            return
        if self._verdicts is None:
            self.seconds -= _FORGET * self.seconds
            return
        self._verdicts += 1
        if self._verdicts > _SETTLED:
            weight = _NEWEST if self._known else 1.0
            self._known = True
            self.seconds += weight * (seen.queue - self.seconds)

    def planned(self, plan: Plan) -> None:
        """That is the plan."""
        if not plan.draft_length or plan.ahead:
            self._verdicts = None
        elif self._verdicts is None:
            self._verdicts = 0

    def interrupted(self) -> None:
        """Somebody else made the newest plan."""
        self._verdicts = None
