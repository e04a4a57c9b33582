"""The plan from configuration, whatever the channel does."""

from __future__ import annotations

from dataclasses import dataclass

from flexspec_mq.controller.plan import Observation, Plan


@dataclass(frozen=True, slots=True)
class FixedPolicy:
    """Always the same plan."""

    fixed: Plan

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        """Return the configured plan."""
        return self.fixed
