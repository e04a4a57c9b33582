"""What a node has learned outlives its sessions: one `Controller` for all of them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq.controller.estimators.acceptance import Acceptance, Share
from flexspec_mq.controller.estimators.average import Average
from flexspec_mq.controller.estimators.link import BIG, LinkEstimates
from flexspec_mq.controller.estimators.low import Low
from flexspec_mq.controller.estimators.row_cost import RowCost
from flexspec_mq.controller.estimators.worker_drafts import WorkerDrafts
from flexspec_mq.controller.explain import Planned
from flexspec_mq.daemon.expiring import ExpiringMap

if TYPE_CHECKING:
    from flexspec_mq.controller.estimators.round_trip import RoundTrip
    from flexspec_mq.controller.plan import Observation, Plan, Policy

_WORKERS = 64
_VERSIONS = 64
_REMEMBERED = 600.0
"""Seconds that a round trip counts as known: a device that was out of reach for longer may be on another network."""


class Told(NamedTuple):
    """Times in a worker's status, in seconds. Nobody signs them, so measurements take their place.

    Attributes:
        forward: of one token of one session.
        row: that one drafted token more makes it longer.
        token: of its own draft.
    """

    forward: float | None = None
    row: float | None = None
    token: float | None = None


class WorkerEstimates:
    """What a node has seen of one worker, in all sessions there. Seconds.

    Attributes:
        round_trip: of the network to it.
        measured_at: when that was seen last.
        asked_at: when an answer was asked for last, only to know it.
        queue: that batches waited there for their forward.
        compute: of a forward that reads no prompt of ours.
        forward: of one for which nobody drafts and no prompt is read.
        row_cost: of one drafted token more in a forward.
        own_forward, own_tokens: forwards for a session whose drafts are left to the worker, and tokens of each.
        own_read: of a prompt's token, for its draft.
        drafts: what its verdicts say about drafts.
        told: what it says itself.
    """

    def __init__(self) -> None:
        self.round_trip = Average()
        self.measured_at = self.asked_at = -inf
        self.queue = Average()
        self.compute = Average()
        self.forward = Low()
        self.row_cost = RowCost()
        self.own_forward = Average(memory=16.0)
        self.own_tokens = Average(memory=16.0)
        self.own_read = Average(life=600.0)
        self.drafts = WorkerDrafts()
        self.told = Told()


class VersionEstimates:
    """How drafts of one target version fare, in all sessions of a node.

    Attributes:
        acceptance: of the device's.
        worker_acceptance: of the workers' own.
        newest: policy, plan of any of them, and what it was made from; None before any.
    """

    def __init__(self) -> None:
        self.acceptance = Acceptance()
        self.worker_acceptance = Share()
        self.newest: tuple[Policy, Plan, Observation] | None = None


class Controller:
    """What all sessions of a node have seen of the link, their workers, their versions and their draft.

    New sessions begin with the newest round trip, as RFC 9040 has it for TCP connections between the same hosts.

    Attributes:
        draft_time: seconds that a token takes the draft model, which is the same one for all sessions: of a session
            whose drafts nobody shares the drafter with.
        writing: texts that are being written.
        drafting: of these, those that share the drafter's newest round; at least 1.
        link: the way to the broker.
        memory: of policies that learn, by their names.
    """

    def __init__(self) -> None:
        self.draft_time = Average(life=120.0)
        self.writing = 0
        self.drafting = 1
        self.link = LinkEstimates()
        self.memory: dict[str, object] = {}
        self._round_trips: ExpiringMap[str, RoundTrip] = ExpiringMap(most=_WORKERS)
        self._workers: ExpiringMap[str, WorkerEstimates] = ExpiringMap(most=_WORKERS, life=_REMEMBERED)
        self._told: ExpiringMap[str, Told] = ExpiringMap(most=_WORKERS, life=_REMEMBERED)
        self._versions: ExpiringMap[str, VersionEstimates] = ExpiringMap(most=_VERSIONS)

    def link_up(self, now: float) -> None:
        """The broker is reachable."""
        self.link.link_up(now)

    def link_down(self, now: float) -> None:
        """The broker is not reachable any more."""
        self.link.link_down(now)

    def acknowledged(self, qos: int, seconds: float, size: int, now: float) -> None:
        """The link is done with a message.

        Args:
            qos: at which it was published.
            seconds: from handing it to the link to its acknowledgement; at QoS 0, to the socket.
            size: bytes of its payload.
            now: seconds.
        """
        if size < BIG:
            self.link.acknowledged[qos].saw(seconds, now)
        elif qos:
            self.link.up.carried(size, seconds, now)

    def carried(self, size: int, seconds: float, now: float) -> None:
        """A payload of so many bytes went out, and its answer came so many seconds later."""
        self.link.up.carried(size, seconds, now)

    def received(self, size: int, now: float) -> None:
        """A payload of so many bytes has come."""
        self.link.received(size, now)

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

    def told(self, worker: str, told: Told, now: float) -> None:
        """A worker says what it has timed; one that no session is at stays one that nobody knows."""
        self._told.put(worker, told, now)
        if (known := self._workers.get(worker, now)) is not None:
            known.told = told

    def worker(self, worker: str | None, now: float) -> WorkerEstimates:
        """What is known of a worker; for None, of the newest one."""
        name = next(reversed(self._workers), None) if worker is None else worker
        known = None if name is None else self._workers.get(name, now)
        made = known or WorkerEstimates()
        if worker is not None:
            made.told = self._told.get(worker, now) or made.told
            self._workers.put(worker, made, now)
        return made

    def version(self, version: str, now: float) -> VersionEstimates:
        """What is known of a version."""
        made = self._versions.get(version, now) or VersionEstimates()
        self._versions.put(version, made, now)
        return made

    def plans(self) -> dict[str, Planned]:
        """The newest plan of each version that has one."""
        known = ((name, version.newest) for name, version in self._versions.items())
        return {name: Planned(*newest) for name, newest in known if newest is not None}
