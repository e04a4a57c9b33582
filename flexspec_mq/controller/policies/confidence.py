"""When to stop drafting, from how fast tokens come and how long drafting one takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexspec_mq.controller.plan import Observation, Plan

LEAST, MOST = 0.05, 0.95
"""Bounds of the threshold, so that neither every token is drafted nor none."""


@dataclass(frozen=True, slots=True)
class ConfidencePolicy:
    """Draft one more token only if its joint acceptance is more than what the time for it is worth elsewhere.

    With λ tokens a second lately, and c seconds for one more drafted token, a token must be of use with probability
    λ·c at least: the stopping rule of a ratio (renewal reward), which adapts by itself. On a bad link tokens come
    slowly, time is worth less, and drafts get longer.

    Attributes:
        base: everything else of the plan. Its draft length is the most that a batch has, its threshold what is
            used until there is something to go by.
    """

    base: Plan

    def plan(self, seen: Observation) -> Plan:
        """The base, with the threshold for what was seen lately."""
        if seen.rate is None or seen.draft_time is None:
            return self.base
        return replace(self.base, confidence_threshold=min(max(seen.rate * seen.draft_time, LEAST), MOST))
