"""The plan for the next draft batch, and the interface of whatever makes it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flexspec_mq.errors import UsageError
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS, MAX_IN_FLIGHT


@dataclass(frozen=True, slots=True)
class Plan:
    """What the edge does next.

    Attributes:
        draft_length: K, tokens per batch; 0 asks the target for one token at a time.
        in_flight: W, batches that may be unanswered.
        qos: MQTT quality of service for drafts and opens, 0 to 2.
        ahead: tokens that the worker may decode beyond what it knows the edge to have.
        confidence_threshold: a batch ends before the token whose joint acceptance falls below this; 0 never ends one
            early. A token's joint acceptance is the product of the confidences of all that is drafted and not
            decided, up to itself: the probability that it is of use.
        worker_draft: tokens of its own that a worker with a draft may put behind ours in one forward. What they
            decide counts as `ahead`.
        open_qos: quality of service of opens; None is `qos`. At 1 and 2 the broker tells whether anybody listens.
        trip_age: seconds. Where the worker runs ahead and no batch is under way that could tell the round trip, an
            answer is asked for once the newest one is so old; None never asks.
    """

    draft_length: int = 4
    in_flight: int = 1
    qos: int = 0
    ahead: int = 0
    confidence_threshold: float = 0.0
    worker_draft: int = 0
    open_qos: int | None = None
    trip_age: float | None = None

    def __post_init__(self) -> None:
        """Refuse what the protocol does not allow.

        Raises:
            UsageError: naming the value and its bounds.
        """
        for name, value, top in (
            ("draft_length", self.draft_length, MAX_DRAFT_TOKENS),
            ("qos", self.qos, 2),
            ("open_qos", self.open_qos or 0, 2),
            ("ahead", self.ahead, MAX_AHEAD),
            ("worker_draft", self.worker_draft, MAX_DRAFT_TOKENS),
        ):
            if not 0 <= value <= top:
                raise UsageError(f"{name} {value} is not between 0 and {top}")
        stop = self.confidence_threshold
        if not 0 <= stop < 1:
            raise UsageError(f"stop {stop} is not between 0 and 1", hint="0 never ends a batch early")
        if not 1 <= self.in_flight <= MAX_IN_FLIGHT:
            raise UsageError(f"in_flight {self.in_flight} is not between 1 and {MAX_IN_FLIGHT}")
        if self.trip_age is not None and self.trip_age <= 0:
            raise UsageError(f"trip_age {self.trip_age} is not above 0")


PLACES = 16
"""Tokens of a batch whose acceptance is told apart."""
UNTRIED = 0.6
"""Acceptance of a draft of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the edge knows when it plans.

    Times are seconds. An `..._error` is the standard error of its estimate, a `..._deviation` how far one sample lies
    from the mean, on average. What is None was never seen.

    Attributes:
        rtt: smoothed round trip, without the worker's queue and compute.
        rtt_var: its mean deviation.
        queue: last queueing time at the worker in seconds.
        compute: last forward at the worker in seconds.
        sessions: texts that the node writes, this one included.
        draft_time: seconds per token of the draft model where all of them draft, smoothed; None before a sample.
        rate: tokens per second that the session got lately; None before a sample.
        drafted: tokens drafted and judged so far.
        accepted: of these, accepted.
        committed: tokens committed so far.
        remaining: tokens that the text may still have at most.
        prompt: tokens of the prompt.
        at: when the newest tokens came, on the session's clock; None before any.
        worker_drafted: tokens that the worker lately drafted itself for each verdict, smoothed, as far as it might.
        worker_verdicts: on which that rests.
        granted: drafted tokens of ours that a forward of the worker takes as it seems; None is all.
        taken: share of those at hand that a forward verifies; a crowded worker puts off what is not worth its time.
        rtt_error: of the round trip.
        queue_mean, queue_deviation, queue_error: queueing times of the worker, smoothed.
        compute_mean, compute_deviation, compute_error: its forwards, smoothed.
        draft_time_error: of the time per drafted token.
        draft_told: seconds per token of the worker's own draft, as it says; a guess at ours before a sample.
        forward: one for which nobody drafts, estimated; before any, as the worker says.
        row_cost: what one more drafted token costs in a forward, at least 0; before any, as the worker says.
        row_cost_error: of it; as large as itself where no data tell.
        own_forward, own_tokens: forwards for a session whose drafts are left to the worker, and tokens of each.
        own_read: seconds for which the worker's draft has to read the prompt of this session before it drafts; 0 once
            it has.
        acceptance: probability that the i-th token of a batch is right, given that all before it are, for batches
            as this version's sessions drafted them lately. The last entry stands for all later tokens too.
        acceptance_known: tries that each entry rests on, older ones counting less; 0 is nothing but the rest's.
        worker_acceptance: share of the worker's own drafted tokens, of those that were compared, that were right.
        worker_acceptance_known: tries that it rests on, older ones counting less.
        goodput_up, goodput_down: payload bytes per second that the link carries at least.
        disconnects: lost connections per second of connected time.
        disconnects_error: standard deviation of that rate as it is known.
        outage: how long the link stays down once it is, on average.
        outage_error: of it.
        ack_times: for QoS 0, 1 and 2, from handing a message to the link to its acknowledgement; for QoS 0, to the
            socket.
        ack_deviations: of these.
        joules: that the text has taken out of the device; None where nothing tells.
        battery: share of a full charge that is left, 0 to 1; None without a battery that feeds the device.
    """

    rtt: float | None = None
    rtt_var: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    sessions: int = 1
    draft_time: float | None = None
    rate: float | None = None
    drafted: int = 0
    accepted: int = 0
    committed: int = 0
    remaining: int = 2**20
    prompt: int = 0
    at: float | None = None
    worker_drafted: float = 0.0
    worker_verdicts: int = 0
    granted: int | None = None
    taken: float = 1.0
    rtt_error: float | None = None
    queue_mean: float | None = None
    queue_deviation: float = 0.0
    queue_error: float | None = None
    compute_mean: float | None = None
    compute_deviation: float = 0.0
    compute_error: float | None = None
    draft_time_error: float | None = None
    draft_told: float | None = None
    forward: float | None = None
    row_cost: float | None = None
    row_cost_error: float | None = None
    own_forward: float | None = None
    own_tokens: float | None = None
    own_read: float | None = None
    acceptance: tuple[float, ...] = (UNTRIED,) * PLACES
    acceptance_known: tuple[float, ...] = (0.0,) * PLACES
    worker_acceptance: float | None = None
    worker_acceptance_known: float = 0.0
    goodput_up: float | None = None
    goodput_down: float | None = None
    disconnects: float | None = None
    disconnects_error: float | None = None
    outage: float | None = None
    outage_error: float | None = None
    ack_times: tuple[float | None, float | None, float | None] = (None, None, None)
    ack_deviations: tuple[float, float, float] = (0.0, 0.0, 0.0)
    joules: float | None = None
    battery: float | None = None


class Policy(Protocol):
    """Makes plans. One instance per session; it may keep state."""

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch from what was seen so far."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A policy that learns from one session for the next ones of its node."""

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """Go on from what was learned before, and learn in there, under a name of one's own."""
        ...


@runtime_checkable
class StandsBy(Protocol):
    """A policy that learns from what becomes of its plans."""

    def stands_by(self, seen: Observation) -> None:
        """Somebody else made the newest plan: what tokens take says nothing about ours."""
        ...


@runtime_checkable
class HearsEnd(Protocol):
    """A policy that is told when its text is over."""

    def ended(self, seen: Observation) -> None:
        """All that the text came to."""
        ...
