"""What a session that waits for its drafts waits at the worker for its turn."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from flexspec_mq.controller.plan import Observation, Plan

_SETTLED = 2
"""Verdicts after a plan without run-ahead that may still be of a worker that ran ahead."""
_FORGET = 0.01
"""How much is forgotten with each verdict while the worker does not wait, so that it is tried again some day."""
_NEWEST = 0.25
"""Weight of the newest sample."""
_OF = 3
"""Batches of which the middle one is a sample: now and then one waits for a forward of its own session after all."""


_NAME = "turn"
"""Of what was learned, in a node's memory."""


@dataclass(slots=True)
class _Learned:
    """What the sessions of a node know together."""

    seconds: float = 0.0


class Turn:
    """Seconds from a batch's arrival to its forward, where the worker has waited for the batch.

    Only then is that a wait for others. A batch that finds the worker ahead waits for a forward of its own session,
    which would not be there if the worker waited.
    """

    __slots__ = ("_committed", "_learned", "_samples", "_verdicts")

    def __init__(self) -> None:
        self._learned = _Learned()
        self._samples: deque[float] = deque(maxlen=_OF)
        self._verdicts: int | None = None  # since the worker waits
        self._committed = 0

    @property
    def seconds(self) -> float:
        """0 before any was seen."""
        return self._learned.seconds

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """Go on from what sessions before saw, and learn for those that come; see `Learner`."""
        known = memory.setdefault(_NAME, self._learned)
        if isinstance(known, _Learned):
            self._learned = known

    def saw(self, seen: Observation) -> None:
        """Take what is known before the next plan."""
        more, self._committed = seen.committed > self._committed, seen.committed
        if not more:
            return
        learned = self._learned
        if self._verdicts is None:
            learned.seconds -= _FORGET * learned.seconds
            return
        self._verdicts += 1
        if self._verdicts > _SETTLED:
            self._samples.append(seen.queue)
            if len(self._samples) == _OF:
                learned.seconds += _NEWEST * (median(self._samples) - learned.seconds)

    def planned(self, plan: Plan) -> None:
        """That is the plan."""
        if not plan.draft_length or plan.ahead:
            self._verdicts = None
        elif self._verdicts is None:
            self._verdicts = 0

    def interrupted(self) -> None:
        """Somebody else made the newest plan."""
        self._verdicts = None
