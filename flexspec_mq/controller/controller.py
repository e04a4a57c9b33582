"""What a node has learned outlives its sessions: one `Controller` for all of them, one view of it for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.controller.estimators.draft_time import DraftTime
from flexspec_mq.controller.estimators.rate import Rate
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.plan import Observation
from flexspec_mq.daemon.expiring import ExpiringMap

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Plan, Policy

_WORKERS = 64
_REMEMBERED = 600.0
"""Seconds that a round trip counts as known: a device that was out of reach for longer may be on another network."""


class Controller:
    """What all sessions of a node have seen of their workers and their draft.

    New sessions begin with the newest round trip, as RFC 9040 has it for TCP connections between the same hosts.

    Attributes:
        draft_time: of the draft model, which is the same one for all sessions.
    """

    def __init__(self) -> None:
        self.draft_time = DraftTime()
        self._round_trips: ExpiringMap[str, tuple[float, float]] = ExpiringMap(
            most=_WORKERS, life=_REMEMBERED
        )

    def measured(self, worker: str, round_trip: float, deviation: float, now: float) -> None:
        """A session's smoothed round trip to a worker, and its deviation, both in seconds."""
        self._round_trips.put(worker, (round_trip, deviation), now)

    def round_trip(self, worker: str | None, now: float) -> tuple[float, float] | None:
        """Smoothed round trip and deviation of a worker, the newest of any for None; None while nothing is known."""
        name = next(reversed(self._round_trips), None) if worker is None else worker
        return None if name is None else self._round_trips.get(name, now)


class SessionController:
    """One session's estimates and its policy.

    Args:
        node: what the node knows, and is told what this session sees.
        policy: asked for plans.
        round_trip: of this session.
    """

    def __init__(self, node: Controller, policy: Policy, round_trip: RoundTrip) -> None:
        self._node = node
        self._policy = policy
        self.round_trip = round_trip
        self.rate = Rate()

    def begin(self, worker: str | None, now: float) -> None:
        """The first open goes to this worker, or to any: start with what the node knows of the way there."""
        known = self._node.round_trip(worker, now)
        if known is not None:
            self.round_trip.assume(*known)

    @property
    def opportunity_cost(self) -> float:
        """Tokens that the session would get in the time that one token takes the draft model; 0 while unknown."""
        return (self._node.draft_time.seconds or 0.0) * (self.rate.per_second or 0.0)

    def answered(self, worker: str | None, echo: int, queue_ms: int, compute_ms: int, now: float) -> None:
        """Take a verdict's echo and times; the adopted worker, whom it is of, may be unknown."""
        mine = self.round_trip
        sampled = mine.answered(echo, queue_ms, compute_ms, now)
        if sampled and worker is not None and mine.smoothed is not None:
            self._node.measured(worker, mine.smoothed, mine.deviation, now)

    def drafted(self, seconds: float) -> None:
        """A token of the draft model took so long."""
        self._node.draft_time.took(seconds)

    def observe(self, *, drafted: int, accepted: int, committed: int) -> Observation:
        """What a policy plans from, with counts of the session."""
        mine = self.round_trip
        return Observation(
            rtt=mine.smoothed,
            rtt_var=mine.deviation,
            queue=mine.queue,
            compute=mine.compute,
            draft_time=self._node.draft_time.seconds,
            rate=self.rate.per_second,
            drafted=drafted,
            accepted=accepted,
            committed=committed,
        )

    def plan(self, seen: Observation) -> Plan:
        """Ask the policy for the plan of the next batch."""
        return self._policy.plan(seen)
