"""When to stop drafting, from how fast tokens come and how long drafting one takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.stopping import token_worth

LEAST, MOST = 0.05, 0.95
"""Bounds of the threshold, so that neither every token is drafted nor none."""


@dataclass(frozen=True, slots=True)
class ConfidencePolicy:
    """Draft one more token only if its joint acceptance is more than what the time for it is worth elsewhere.

    That adapts by itself (see `stopping`): on a bad link tokens come slowly, time is worth less, and drafts get
    longer.

    Attributes:
        base: everything else of the plan. Its draft length is the most that a batch has, its threshold what is
            used until there is something to go by.
    """

    base: Plan

    def plan(self, seen: Observation) -> Plan:
        """The base, with the threshold for what was seen lately."""
        worth = token_worth(seen)
        if worth is None:
            return self.base
        return replace(self.base, confidence_threshold=min(max(worth, LEAST), MOST))
