"""A session's view of what its node has learned: verdicts go in, plans come out."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from flexspec_mq.controller.estimates import estimates
from flexspec_mq.controller.estimators.average import Rate
from flexspec_mq.controller.estimators.node import REMEMBERED, NodeEstimates, VersionEstimates
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.estimators.worker import WorkerEstimates
from flexspec_mq.controller.explain import Planned
from flexspec_mq.controller.observation import DeviceReading, Observation, WorkerDraftsView
from flexspec_mq.controller.plan import Plan, Policy
from schemas.messages import MAX_DRAFT_TOKENS, Verdict
from schemas.plan import PlanEstimate

_READ = 64
"""Tokens of a prompt that a worker's draft reads beside a forward, as `cloud_worker` does."""
_PLAIN = 0.3
"""Share of a forward that one token alone takes at least."""
_FADES = 0.9
"""Share of the known time of reading that a text leaves whose prompt the draft did not read: one slow beginning, as of
a device that was busy, would keep the draft away for good."""
_IDLE = 0.996
"""Share of the known time of drafting that a verdict leaves of a text whose device does not draft, for the same."""
_FREE, _FREE_SHARE = 0.005, 1 / 6
"""Seconds, or share of a forward if that is more, below which a token of the worker's own draft counts as free, as it
is there before the device's can be. Such a worker is let draft beside the device, and before anything is known: with
one at a time texts of the default pair take 1.00 to 1.11 of the simulated seconds at a seventh of a forward, and 0.95
to 1.06 at three tenths. A slower draft that is hardly ever right costs where it is not counted: 1.07 of streaming in
simulated time at an acceptance of 0.2, and 1.00 where it is."""
_SETTLED = 2
"""Verdicts after a plan without look-ahead that may still be of a worker that ran ahead."""
_SILENT = DeviceReading()


class Added(NamedTuple):
    """Addition of a verdict to a text.

    Attributes:
        tokens: number of new tokens.
        wrong: whether the last one that met a drafted token differs from it.
        batches: places of the drafted tokens that were met, see `Acceptance.judged`.
    """

    tokens: int = 0
    wrong: bool = False
    batches: Sequence[tuple[int, int]] = ()


class SessionController:
    """Estimates and policy of one session.

    Args:
        node: estimates of the node, which this session feeds.
        policy: asked for plans.
        round_trip: round trip of this session.
        version: target version of this session.
        prompt: tokens of its prompt.
        device: asked before each plan; None where nothing tells.

    Attributes:
        node: estimates of the node.
        worker: estimates of the session's worker.
        version: estimates of drafts for its version.
        planned: newest plan, and where it comes from; None before any.
    """

    def __init__(
        self,
        node: NodeEstimates,
        policy: Policy,
        round_trip: RoundTrip,
        version: str,
        prompt: int,
        device: Callable[[], DeviceReading] | None = None,
    ) -> None:
        self.node = node
        self._device = device
        self._policy = policy
        self._name = version
        self._prompt = prompt
        self._reading = True  # the next forward for this session reads its prompt
        self._unread = True  # the device's draft has not read the prompt
        self._drafting = False  # the worker has drafted for this session
        self._reads = 0  # verdicts without drafts of the worker's, that let it
        self._waited: int | None = None  # verdicts since the worker waits for drafts
        self._begun = False
        self._round_trip = round_trip
        self._rate = Rate()
        self.worker = WorkerEstimates()
        self.version = VersionEstimates()
        self.planned: Planned | None = None
        self._asked_at = -inf  # when this session asked for an answer, to know the round trip

    def begin(self, worker: str | None, now: float) -> None:
        """The first open goes to this worker, or to any: start with what the node knows of the way there."""
        self.node.writing += not self._begun
        self._begun = True
        self.worker = self.node.worker(worker, now)
        known = self.worker.trip
        if known is not None and now - known.measured_at < REMEMBERED:
            self._round_trip.assume(known)
        self.version = self.node.version(self._name, now)

    def adopted(self, worker: str, now: float) -> None:
        """The session's messages go to this worker now."""
        self.worker = self.node.worker(worker, now)
        self.worker.trip = self._round_trip
        self._reading, self._drafting, self._reads = True, False, 0

    def echoed(self, verdict: Verdict, now: float) -> None:
        """Take a verdict's echo, before anything else of it: timers go by the round trip."""
        trip = self._round_trip
        queue = verdict.queue if _of_a_forward(verdict) else 0
        sample = trip.answered(verdict.echo, queue, verdict.compute, now)
        # An accept may be of another worker than the one that is known so far.
        worker = self.worker if verdict.worker is None else self.node.worker(verdict.worker, now)
        if sample is not None:
            (worker.round_trip.stepped if trip.jumped else worker.round_trip.update)(sample, now)
        worker.measured_at = max(worker.measured_at, trip.measured_at)

    def took(self, verdict: Verdict, added: Added, now: float, *, mine: bool, may: bool) -> None:
        """Measure all that a verdict tells but the round trip: the one door from the protocol to the estimators.

        Args:
            verdict: a verdict.
            added: addition of it to the text.
            now: seconds.
            mine: whether it is of the session's worker.
            may: whether the worker may draft itself.
        """
        if added.tokens:
            self._rate.update(added.tokens, now)
            draft_time = self.node.draft_time
            idle = self.planned is not None and not self.planned.plan.draft_length
            if idle and draft_time.mean is not None:
                draft_time.mean *= _IDLE
            if added.batches:
                self.version.acceptance.judged(added.batches, now, wrong=added.wrong)
            elif self._worker_token and 0 < added.tokens <= verdict.drafted + 1:
                # It has the device's draft, as far as anybody knows: so the device's acceptance is known meanwhile.
                wrong = added.tokens <= verdict.drafted
                self.version.acceptance.judged([(0, min(added.tokens, verdict.drafted))], now, wrong=wrong)
        if mine and _of_a_forward(verdict):
            self._measure(verdict, now, may=may)

    @property
    def _worker_token(self) -> float:
        """Seconds of a token of the worker's own draft; 0 where it counts as free, or is not stated."""
        stated = self.worker.stated
        token = stated.token or 0.0
        return token if token >= max(_FREE, _FREE_SHARE * (stated.forward or 0.0)) else 0.0

    def drafted(self, seconds: float, now: float) -> None:
        """The draft model's newest token took so long, in time or not; the first one, as the prompt was read for it."""
        if self._unread:
            self._unread, self.node.read_time = False, seconds / self._prompt
        else:
            self.node.draft_time.update(seconds / self.node.drafting, now)

    def withheld(self, place: int, confidence: float, now: float) -> None:
        """A drafted token at this place of its batch was too doubtful to be sent: it counts as likely as it seemed."""
        self.version.acceptance.judged([(place, 1)], now, wrong=1.0 - confidence)

    def wants_trip(self, age: float, now: float) -> bool:
        """Whether to ask for an answer now, only to know the round trip; told so, it takes it for done.

        All sessions at a worker know its round trip from each other, so one of them asks, at once where samples look
        like a step. A doubt of its own `RoundTrip` each session asks about once.

        Args:
            age: seconds that the newest sample may be old.
            now: seconds.
        """
        worker, doubted_at = self.worker, self._round_trip.doubted_at
        due = max(worker.measured_at, worker.asked_at) + age
        doubtful = worker.round_trip.doubtful and worker.measured_at >= worker.asked_at
        if now < due and not doubtful and (doubted_at is None or self._asked_at >= doubted_at):
            return False
        self._asked_at = worker.asked_at = now
        return True

    def observe(self, drafted: int, committed: int, remaining: int) -> Observation:
        """Observation that a policy plans from.

        Args:
            drafted: tokens drafted on the device and judged.
            committed: tokens of the text.
            remaining: tokens that it may still have at most.
        """
        mine, worker, draft = self._round_trip, self.worker, self.node.draft_time
        rtt, stated, drafts, lost = worker.round_trip, worker.stated, worker.drafts, self.node.disconnects
        sessions, known = self.node.writing or 1, rtt.mean is not None
        draft_time = stated.token if draft.mean is None else draft.mean
        acceptance = self.version.acceptance
        return Observation(
            rtt.mean if known else mine.unstalled,
            rtt.deviation if known else mine.deviation,
            worker.forward.value or stated.forward or mine.compute or worker.compute.mean or 0.0,
            worker.compute.deviation,
            stated.row,
            worker.queue.mean or 0.0,
            worker.queueing.seconds,
            None if draft_time is None else sessions * draft_time,
            draft.mean is not None,
            self._prompt * self.node.read_time if self._unread else 0.0,
            acceptance.places,
            acceptance.known[0],
            sessions,
            self._rate.per_second,
            self._rate.at,
            self._prompt,
            committed,
            remaining,
            drafted,
            WorkerDraftsView(
                drafts.verdicts,
                drafts.per_verdict,
                self._drafting,
                drafts.granted,
                self._worker_token,
                stated.read or 0.0,
            ),
            lost.rate + lost.error,
            self.node.up.per_second,
            self.node.down.per_second,
            _SILENT if self._device is None else self._device(),
        )

    def plan(self, drafted: int, committed: int, remaining: int) -> Plan:
        """Ask the policy for the plan of the next batch; arguments as of `observe`."""
        seen = self.observe(drafted, committed, remaining)
        plan = self._policy.plan(seen)
        if not plan.draft_length or plan.ahead:
            self._waited = None
        elif self._waited is None:
            self._waited = 0
        self.planned = self.version.newest = Planned(self._policy, plan, seen, self.estimates)
        return plan

    def ended(self, drafted: int, committed: int, remaining: int) -> None:
        """The text is over; arguments as of `observe`."""
        self.node.writing -= self._begun
        if self._unread:
            self.node.read_time *= _FADES
        self._begun = False
        self._policy.ended(self.observe(drafted, committed, remaining))

    def estimates(self) -> Mapping[str, PlanEstimate]:
        """All that is estimated now, by name."""
        seen = Observation() if self.planned is None else self.planned.seen
        return estimates(seen, self.worker, self.version, self.node)

    def _measure(self, verdict: Verdict, now: float, *, may: bool) -> None:
        """Take the times of a forward, and what it says of drafts."""
        worker, trip, own = self.worker, self._round_trip, verdict.drafted
        offered = max(0, trip.arrived - verdict.start)
        reading = may and not own and not self._drafting and self._reads < self._prompt // _READ + 2
        # A worker that drafts nothing says nothing by that while its draft may be reading the prompt.
        self._reads += reading
        worker.drafts.update(own, verdict.granted, may=may and not reading)
        if not (verdict.queue or verdict.compute):
            return
        if self._reading:
            self._reading = False
            return
        queued, seconds = verdict.queue / 1000, verdict.compute / 1000
        worker.queue.update(queued, now)
        worker.compute.update(seconds, now)
        self._measure_wait(queued)
        rows = min(MAX_DRAFT_TOKENS, offered) if verdict.granted is None else verdict.granted
        stated = worker.stated
        drafting = (rows + own * bool(self._worker_token)) * (stated.row or 0.0) + own * self._worker_token
        alone = max(_PLAIN * seconds, seconds - drafting)
        usual = worker.forward.value or stated.forward or alone
        if own:
            self._drafting = True
            if alone < usual or self._worker_token:  # a forward without drafts takes no longer than one with
                worker.forward.update(alone)
            return
        if not reading or alone <= usual:  # a piece of the prompt is read beside each of many forwards
            worker.forward.update(alone)

    def _measure_wait(self, queued: float) -> None:
        """Take the wait of a batch for its forward: for others, if the worker waited for the batch."""
        if self._waited is None:
            self.worker.queueing.fade()
            return
        self._waited += 1
        if self._waited > _SETTLED:
            self.worker.queueing.update(queued)


def _of_a_forward(verdict: Verdict) -> bool:
    """Whether a verdict tells what a forward decided. Answers to polls come at once, and may repeat tokens."""
    return verdict.tokens != () and (not verdict.queue or verdict.compute > 0)
