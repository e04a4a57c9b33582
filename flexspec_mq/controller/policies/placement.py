"""Who drafts: the worker while it does, else the device; and how far the worker runs ahead of a long round trip."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flexspec_mq.controller.choices import too_busy
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.who_drafts import WhoDrafts


@dataclass(slots=True)
class PlacementPolicy:
    """A few lines from round trip, time of a forward, and what the worker says about drafts.

    A worker that drafts is left to it, which saves the device its drafts. Where the worker drafts hardly anything, as
    it has no draft or too much to do, the device drafts, unless that would come too late all the same. The worker
    always runs ahead.

    Attributes:
        base: everything else of the plan. Its draft length is the most that a batch has.
    """

    base: Plan
    _who: WhoDrafts = field(default_factory=WhoDrafts)

    def plan(self, seen: Observation) -> Plan:
        """The base, with who drafts and how far ahead."""
        base = self.base
        if not base.ahead:
            return base
        self._who.saw(seen)
        length = base.draft_length
        if seen.granted is not None:
            length = min(length, seen.granted)
        if self._who.alone or too_busy(seen) or _too_late(seen, length):
            length = 0
        return self._who.running_ahead(replace(base, draft_length=length))


def _too_late(seen: Observation, length: int) -> bool:
    """Whether the worker, which runs ahead, has decided a batch's tokens but for one by the time that they arrive."""
    if seen.rtt is None or not seen.compute or not seen.draft_time:
        return False
    forwards = (seen.rtt + length * seen.draft_time) / seen.compute
    return length < 2 + forwards
