"""Estimates of a node that outlive its sessions: one `NodeEstimates` for all of them."""

from flexspec_mq.controller.estimators.acceptance import Acceptance
from flexspec_mq.controller.estimators.average import Average
from flexspec_mq.controller.estimators.link import LARGE, Bandwidth, Disconnects
from flexspec_mq.controller.estimators.worker import StatedTimes, WorkerEstimates
from flexspec_mq.controller.explain import Planned
from flexspec_mq.daemon.expiring import ExpiringMap

_WORKERS = 64
_VERSIONS = 64
_LATELY = 1000
"""Tokens written alone that count for half, once as many more were judged."""
REMEMBERED = 600.0
"""Seconds that a worker and its round trip count as known: a device that was away longer may be on another network."""


class ProvisionalShare:
    """How much of what a draft wrote alone the target wrote as well, lately: what is older counts for less.

    Attributes:
        confirmed: tokens that stayed.
        drafted: all that were decided, or went with one that was wrong.
    """

    def __init__(self) -> None:
        self.confirmed = self.drafted = 0.0

    def judged(self, confirmed: int, replaced: int) -> None:
        """Count tokens that the target has decided."""
        drafted = confirmed + replaced
        left = 1 - drafted / (drafted + _LATELY)
        self.confirmed = left * self.confirmed + confirmed
        self.drafted = left * self.drafted + drafted

    @property
    def share(self) -> float | None:
        """Share of confirmed tokens, 0 to 1; None before any."""
        return self.confirmed / self.drafted if self.drafted else None


class VersionEstimates:
    """Acceptance of drafts of one target version, in all sessions of a node.

    Attributes:
        acceptance: drafts of the device.
        provisional: share of what it wrote alone that was confirmed.
        newest: newest plan of its texts; None before any.
    """

    def __init__(self) -> None:
        self.acceptance = Acceptance()
        self.provisional = ProvisionalShare()
        self.newest: Planned | None = None


class NodeEstimates:
    """Estimates of the link, workers, versions and draft, over all sessions of a node.

    New sessions begin with the newest round trip, as RFC 9040 has it for TCP connections between the same hosts.

    Attributes:
        draft_time: seconds of a drafted token, for a session whose drafts nobody shares the drafter with.
        read_time: seconds of a token of the newest prompt that the draft has read; 0 before any.
        writing: texts that are being written.
        drafting: texts that share the drafter's newest round; at least 1.
        disconnects: lost connections to the broker.
        up, down: bandwidth to and from the broker.
    """

    def __init__(self) -> None:
        self.draft_time = Average(fade=120.0)
        self.read_time = 0.0
        self.writing = 0
        self.drafting = 1
        self.disconnects = Disconnects()
        self.up, self.down = Bandwidth(), Bandwidth()
        self._workers: ExpiringMap[str, WorkerEstimates] = ExpiringMap(most=_WORKERS, ttl=REMEMBERED)
        self._stated: ExpiringMap[str, StatedTimes] = ExpiringMap(most=_WORKERS, ttl=REMEMBERED)
        self._versions: ExpiringMap[str, VersionEstimates] = ExpiringMap(most=_VERSIONS)

    def stated(self, worker: str, times: StatedTimes, now: float) -> None:
        """A worker says what it has timed; one that no session is at stays one that nobody knows."""
        self._stated.put(worker, times, now)
        if (known := self._workers.get(worker, now)) is not None:
            known.stated = times

    def worker(self, worker: str | None, now: float) -> WorkerEstimates:
        """Estimates of a worker; for None, of the newest one."""
        name = next(reversed(self._workers), None) if worker is None else worker
        known = None if name is None else self._workers.get(name, now)
        estimates = known or WorkerEstimates()
        if worker is not None:
            estimates.stated = self._stated.get(worker, now) or estimates.stated
            self._workers.put(worker, estimates, now)
        return estimates

    def version(self, version: str, now: float) -> VersionEstimates:
        """Estimates of a version."""
        estimates = self._versions.get(version, now) or VersionEstimates()
        self._versions.put(version, estimates, now)
        return estimates

    def published(self, qos: int, size: int, seconds: float, now: float) -> None:
        """Take the time from handing a payload of `size` bytes to the link to its acknowledgement, at QoS 1 and 2."""
        if qos and size >= LARGE:
            self.up.carried(size, seconds, now)

    def received(self, size: int, now: float) -> None:
        """Take a message with `size` bytes of payload that has come."""
        self.disconnects.received(now)
        self.down.received(size, now)

    def plans(self) -> dict[str, Planned]:
        """The newest plan of each version that has one."""
        known = ((name, version.newest) for name, version in self._versions.items())
        return {name: newest for name, newest in known if newest is not None}
