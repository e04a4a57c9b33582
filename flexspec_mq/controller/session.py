"""One session's view of what its node has learned: what it sees goes in, plans come out."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq.controller.controller import VersionEstimates, WorkerEstimates
from flexspec_mq.controller.estimators.rate import Rate
from flexspec_mq.controller.explain import Planned
from flexspec_mq.controller.plan import HearsEnd, Learner, Observation
from schemas.messages import MAX_DRAFT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.controller.controller import Controller
    from flexspec_mq.controller.estimators.round_trip import RoundTrip
    from flexspec_mq.controller.plan import Plan, Policy
    from schemas.messages import Verdict

_PROMPT = 32
"""Tokens of a prompt whose reading shows in the time of a forward."""
_READ = 64
"""Tokens of a prompt that a worker's draft reads beside a forward."""
_PLAIN = 0.3
"""One token alone takes so much of a forward, at least."""


def _of_a_forward(verdict: Verdict) -> bool:
    """Whether a verdict tells what a forward decided. Answers to polls come at once, and may repeat tokens."""
    return verdict.tokens != () and (not verdict.queue or verdict.compute > 0)


class Counts(NamedTuple):
    """How far a session is, in tokens.

    Attributes:
        prompt: of its prompt.
        drafted: on the device, and judged.
        accepted: of these.
        committed: so far.
        remaining: that it may have at most.
    """

    prompt: int
    drafted: int
    accepted: int
    committed: int
    remaining: int


class DeviceReading(NamedTuple):
    """What a device tells of itself while a text is written.

    Attributes:
        joules: see `Observation`.
        battery: likewise.
    """

    joules: float | None = None
    battery: float | None = None


_SILENT = DeviceReading()


class SessionController:
    """One session's estimates and its policy.

    Args:
        node: what the node knows, and is told what this session sees.
        policy: asked for plans.
        round_trip: of this session.
        version: target version of this session.
        device: asked before each plan; None where nothing tells.

    Attributes:
        node: what the node knows.
        rate: of this session's tokens.
        worker: what the node knows of its worker.
        version: what the node knows of drafts for its version.
        opportunity_cost: tokens that the session would get in the time that one token takes the draft model, as of
            the newest plan; 0 while unknown.
    """

    def __init__(
        self,
        node: Controller,
        policy: Policy,
        round_trip: RoundTrip,
        version: str,
        device: Callable[[], DeviceReading] | None = None,
    ) -> None:
        self.node = node
        self._device = device
        self._policy = policy
        if isinstance(policy, Learner):
            policy.recall(node.memory)
        self._name = version
        self._reading = True  # the next forward for this session reads its prompt
        self._drafting = False  # the worker has drafted for this session
        self._reads = 0  # verdicts without, that let it
        self._beyond = 0.0  # seconds beyond usual that forwards have taken before that
        self._begun = False
        self.round_trip = round_trip
        self.rate = Rate()
        self.worker = WorkerEstimates()
        self.version = VersionEstimates()
        self._newest: tuple[Policy, Plan, Observation] | None = None
        self._asked_at = -inf  # when this session asked for an answer, to know the round trip
        self.opportunity_cost = 0.0

    def begin(self, worker: str | None, now: float) -> None:
        """The first open goes to this worker, or to any: start with what the node knows of the way there."""
        self.node.writing += not self._begun
        self._begun = True
        known = self.node.round_trip(worker, now)
        if known is not None:
            self.round_trip.assume(known)
        self.worker = self.node.worker(worker, now)
        self.version = self.node.version(self._name, now)
        self.version.acceptance.begins()

    def adopted(self, worker: str, now: float) -> None:
        """The session's messages go to this worker now."""
        self.node.adopted(worker, self.round_trip, now)
        self.worker = self.node.worker(worker, now)
        self._reading, self._drafting, self._reads, self._beyond = True, False, 0, 0.0

    def told(self, verdict: Verdict, prompt: int, *, may: bool) -> None:
        """Take what a verdict of the session's worker says of drafts.

        Args:
            verdict: with tokens.
            prompt: its tokens.
            may: the worker may draft itself. That it does not says nothing while its draft may be reading the prompt.
        """
        if may and not verdict.drafted and self._may_be_reading(prompt):
            self._reads += 1
            may = False
        offered = max(0, self.round_trip.arrived - verdict.start)
        writing = max(1, self.node.writing)
        self.worker.drafts.told(verdict.drafted, verdict.granted, offered, may=may, sessions=writing)

    def answered(self, verdict: Verdict, now: float, prompt: int, *, may: bool) -> bool:
        """Take a verdict's echo and times.

        Args:
            verdict: of any worker.
            now: seconds.
            prompt: its tokens.
            may: the worker may draft itself.

        Returns:
            Whether it tells what a forward decided.
        """
        # An answer without a forward came at once: its `queue` tells of work that still waits.
        computed = _of_a_forward(verdict)
        queue = verdict.queue if computed else 0
        rtt = self.round_trip
        sample = rtt.answered(verdict.echo, queue, verdict.compute, now)
        # A hello may be of another worker than the one that is known so far.
        worker = self.worker if verdict.worker is None else self.node.worker(verdict.worker, now)
        if sample is not None:
            (worker.round_trip.stepped if rtt.jumped else worker.round_trip.saw)(sample, now)
        worker.measured_at = max(worker.measured_at, rtt.measured_at)
        if not computed or not (queue or verdict.compute):
            return computed
        if self._reading:
            self._reading = False
            return computed
        worker.queue.saw(queue / 1000, now)
        worker.compute.saw(verdict.compute / 1000, now)
        rows = verdict.granted
        if rows is None:
            rows = min(MAX_DRAFT_TOKENS, max(0, rtt.arrived - verdict.start))
        before = self._drafting
        self._saw_forward(rows, verdict, now, prompt, may=may)
        if may and before and not rows:
            worker.own_forward.saw(verdict.compute / 1000, now)
            worker.own_tokens.saw(len(verdict.tokens), now)
        return computed

    def wants_trip(self, age: float, now: float) -> bool:
        """Whether to ask for an answer now, only to know the round trip; told so, it takes it for done.

        All sessions at a worker know its round trip from each other, so one of them asks, at once where samples look
        like a step. A doubt of its own `RoundTrip` each session asks about once.

        Args:
            age: seconds that the newest sample may be old.
            now: seconds.
        """
        worker, doubted_at = self.worker, self.round_trip.doubted_at
        due = max(worker.measured_at, worker.asked_at) + age
        doubtful = worker.round_trip.doubtful and worker.measured_at >= worker.asked_at
        if now < due and not doubtful and (doubted_at is None or self._asked_at >= doubted_at):
            return False
        self._asked_at = worker.asked_at = now
        return True

    def _may_be_reading(self, prompt: int) -> bool:
        """Whether the worker's draft may still have some of the prompt to read."""
        return not self._drafting and self._reads < prompt // _READ

    def _saw_forward(self, rows: int, verdict: Verdict, now: float, prompt: int, *, may: bool) -> None:
        """A forward that verified so many tokens of ours."""
        worker, seconds, own = self.worker, verdict.compute / 1000, verdict.drafted
        row = worker.row_cost.seconds or 0.0
        alone = max(_PLAIN * seconds, seconds - rows * row)
        usual = worker.forward.value or alone
        reading = may and not own and self._may_be_reading(prompt)
        if not self._drafting:
            self._beyond += max(0.0, alone - usual)  # it may be reading the prompt for its draft
            if own:
                self._drafting = True
                if prompt >= _PROMPT:
                    worker.own_read.saw(self._beyond / prompt, now)
        if own:
            if alone < usual:  # one without drafts takes no longer than one with
                worker.forward.saw(alone)
        else:
            worker.row_cost.saw(rows, seconds, now)
            # A piece of the prompt is read beside each of many forwards: none of them is a usual one.
            if not reading or alone <= usual:
                worker.forward.saw(alone)

    def observe(self, counts: Counts) -> Observation:
        """What a policy plans from."""
        mine, worker, link, draft = self.round_trip, self.worker, self.node.link, self.node.draft_time
        rtt, queue, compute, cost = worker.round_trip, worker.queue, worker.compute, worker.row_cost
        drafts, acceptance, by_worker = worker.drafts, self.version.acceptance, self.version.worker_acceptance
        lost, outages, (ack0, ack1, ack2) = link.disconnects, link.outages, link.acknowledged
        known = rtt.mean is not None
        token = worker.own_read.mean
        own_read = None if token is None else max(0.0, token * counts.prompt - self._beyond)
        device = _SILENT if self._device is None else self._device()
        sessions = max(1, self.node.writing)
        return Observation(
            rtt=rtt.mean if known else mine.unstalled,
            rtt_var=rtt.deviation if known else mine.deviation,
            queue=mine.queue,
            compute=mine.compute,
            sessions=sessions,
            draft_time=None if draft.mean is None else sessions * draft.mean,
            rate=self.rate.per_second,
            drafted=counts.drafted,
            accepted=counts.accepted,
            committed=counts.committed,
            remaining=counts.remaining,
            prompt=counts.prompt,
            at=self.rate.at,
            own_read=0.0 if self._drafting else own_read,
            worker_verdicts=drafts.verdicts,
            worker_drafted=drafts.per_verdict,
            granted=drafts.granted,
            taken=drafts.taken,
            rtt_error=rtt.error,
            queue_mean=queue.mean,
            queue_deviation=queue.deviation,
            queue_error=queue.error,
            compute_mean=compute.mean,
            compute_deviation=compute.deviation,
            compute_error=compute.error,
            draft_time_error=None if draft.error is None else sessions * draft.error,
            row_cost=worker.told.row if cost.seconds is None else cost.seconds,
            row_cost_error=cost.error,
            own_forward=worker.own_forward.mean,
            own_tokens=worker.own_tokens.mean,
            forward=worker.told.forward if worker.forward.value is None else worker.forward.value,
            draft_told=worker.told.token,
            acceptance=acceptance.places,
            acceptance_known=acceptance.known,
            worker_acceptance=by_worker.mean,
            worker_acceptance_known=by_worker.known,
            goodput_up=link.up.per_second,
            goodput_down=link.down.per_second,
            disconnects=lost.rate,
            disconnects_error=lost.error,
            outage=outages.mean,
            outage_error=outages.error,
            ack_times=(ack0.mean, ack1.mean, ack2.mean),
            ack_deviations=(ack0.deviation, ack1.deviation, ack2.deviation),
            joules=device.joules,
            battery=device.battery,
        )

    def plan(self, counts: Counts) -> Plan:
        """Ask the policy for the plan of the next batch."""
        seen = self.observe(counts)
        self.opportunity_cost = (seen.draft_time or 0.0) * (seen.rate or 0.0)
        plan = self._policy.plan(seen)
        self._newest = self.version.newest = (self._policy, plan, seen)
        return plan

    def ended(self, counts: Counts) -> None:
        """The text is over."""
        self.node.writing -= self._begun
        self._begun = False
        if isinstance(self._policy, HearsEnd):
            self._policy.ended(self.observe(counts))

    @property
    def planned(self) -> Planned | None:
        """The newest plan, and where it comes from; None before any."""
        return None if self._newest is None else Planned(*self._newest)
