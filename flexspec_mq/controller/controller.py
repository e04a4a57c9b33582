"""What a node has learned outlives its sessions: one `Controller` for all of them, one view of it for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.controller.estimators.rate import DraftTime, Rate
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.estimators.worker_drafts import WorkerDrafts
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
        self._round_trips: ExpiringMap[str, RoundTrip] = ExpiringMap(most=_WORKERS)
        self._workers: ExpiringMap[str, WorkerDrafts] = ExpiringMap(most=_WORKERS, life=_REMEMBERED)

    def adopted(self, worker: str, round_trip: RoundTrip, now: float) -> None:
        """A session measures its round trip to this worker from now on."""
        self._round_trips.put(worker, round_trip, now)

    def round_trip(self, worker: str | None, now: float) -> RoundTrip | None:
        """The newest round trip to a worker, or to any for None, if one was measured lately."""
        for name in reversed(self._round_trips):
            known = self._round_trips.get(name, now)
            if known is not None and worker in (None, name) and now - known.measured_at < _REMEMBERED:
                return known
        return None

    def worker_drafts(self, worker: str | None, now: float) -> WorkerDrafts:
        """What verdicts of a worker say about drafts, of all sessions; for None, those of the newest one."""
        name = next(reversed(self._workers), None) if worker is None else worker
        known = None if name is None else self._workers.get(name, now)
        made = known or WorkerDrafts()
        if worker is not None:
            self._workers.put(worker, made, now)
        return made


class SessionController:
    """One session's estimates and its policy.

    Args:
        node: what the node knows, and is told what this session sees.
        policy: asked for plans.
        round_trip: of this session.

    Attributes:
        draft_time: of the node.
        rate: of this session's tokens.
        worker: what its worker says about drafts, shared with all sessions of the node there.
        opportunity_cost: tokens that the session would get in the time that one token takes the draft model, as of
            the newest plan; 0 while unknown.
    """

    def __init__(self, node: Controller, policy: Policy, round_trip: RoundTrip) -> None:
        self._node = node
        self._policy = policy
        self.draft_time = node.draft_time
        self.round_trip = round_trip
        self.rate = Rate()
        self.worker = WorkerDrafts()
        self.opportunity_cost = 0.0

    def begin(self, worker: str | None, now: float) -> None:
        """The first open goes to this worker, or to any: start with what the node knows of the way there."""
        known = self._node.round_trip(worker, now)
        if known is not None:
            self.round_trip.assume(known)
        self.worker = self._node.worker_drafts(worker, now)

    def adopted(self, worker: str, now: float) -> None:
        """The session's messages go to this worker now."""
        self._node.adopted(worker, self.round_trip, now)
        self.worker = self._node.worker_drafts(worker, now)

    def observe(self, *, drafted: int, accepted: int, committed: int) -> Observation:
        """What a policy plans from, with counts of the session."""
        mine = self.round_trip
        return Observation(
            rtt=mine.smoothed,
            rtt_var=mine.deviation,
            queue=mine.queue,
            compute=mine.compute,
            draft_time=self.draft_time.seconds,
            rate=self.rate.per_second,
            drafted=drafted,
            accepted=accepted,
            committed=committed,
            worker_drafted=self.worker.per_verdict,
            granted=self.worker.granted,
        )

    def plan(self, *, drafted: int, accepted: int, committed: int) -> Plan:
        """Ask the policy for the plan of the next batch, with counts of the session."""
        seen = self.observe(drafted=drafted, accepted=accepted, committed=committed)
        self.opportunity_cost = (seen.draft_time or 0.0) * (seen.rate or 0.0)
        return self._policy.plan(seen)
