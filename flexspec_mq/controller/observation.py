"""Knowledge of an edge when it plans."""

import msgspec

PLACES = 16
"""Tokens of a batch whose acceptance is told apart."""
UNTRIED = 0.6
"""Acceptance of a draft of which nothing is known. The default draft has about 0.64: its 2.50 tokens a round at K = 4
(docs/performance.md) are 1 + a + a² + a³ + a⁴."""


class DeviceReading(msgspec.Struct, frozen=True, gc=False):
    """Energy of the device while a text is written.

    Attributes:
        joules: taken out of it by the text so far; None where nothing tells.
        battery: share of a full charge that is left, 0 to 1; None without a battery that feeds the device.
    """

    joules: float | None = None
    battery: float | None = None


class WorkerDraftsView(msgspec.Struct, frozen=True, gc=False):
    """The worker's own drafts, and what it takes of ours.

    Attributes:
        verdicts: verdicts of a worker that might draft.
        per_verdict: tokens that it lately drafted for each, smoothed.
        has_read: true once its draft has read this session's prompt.
        granted: drafted tokens of ours that a forward takes as it seems; None is all.
        token: seconds of a token of its draft, as it says; 0 where that counts as free, or it says nothing.
        read: seconds by which a token of a prompt that it reads holds up forwards, as it says; 0 where it reads none.
    """

    verdicts: int = 0
    per_verdict: float = 0.0
    has_read: bool = False
    granted: int | None = None
    token: float = 0.0
    read: float = 0.0


class Observation(msgspec.Struct, frozen=True):
    """Knowledge of the edge when it plans; times are seconds, and what is None was never seen.

    Attributes:
        rtt, rtt_deviation: round trip without the worker's queue and compute, and its mean deviation.
        forward: a forward of the target for which nobody drafts; 0 while unknown.
        forward_deviation: mean deviation of all forwards.
        row_cost: a drafted token more in a forward, as the worker says.
        queue: mean wait of batches at the worker.
        queueing_delay: wait at the worker for other sessions, where it had waited for the batch.
        draft_time: a token of the draft model where all texts of the node draft; before a measurement, as the
            worker says of its own.
        draft_timed: true if its time was measured here.
        reading: time in which the device's draft will have read the prompt; 0 once it has, or before it ever read one.
        acceptance: probability that the i-th token of a batch is right, given that all before it are. The last entry
            stands for all later tokens too.
        judged: tries that the first of them rests on, older ones counting less.
        sessions: texts that the node writes, this one included.
        rate: tokens per second that the session got lately.
        at: when the newest tokens came, on the session's clock.
        prompt, committed, remaining: tokens of the prompt, of the text so far, and that it may still have at most.
        drafted: tokens drafted on the device and judged in this text.
        worker: drafts at the worker.
        disconnects: lost connections per second of connection, with the standard deviation of that rate on top.
        bandwidth_up, bandwidth_down: payload bytes per second that the link carries at least; None before a transfer.
        device: energy.
    """

    rtt: float | None = None
    rtt_deviation: float = 0.0
    forward: float = 0.0
    forward_deviation: float = 0.0
    row_cost: float | None = None
    queue: float = 0.0
    queueing_delay: float = 0.0
    draft_time: float | None = None
    draft_timed: bool = False
    reading: float = 0.0
    acceptance: tuple[float, ...] = (UNTRIED,) * PLACES
    judged: float = 0.0
    sessions: int = 1
    rate: float | None = None
    at: float | None = None
    prompt: int = 0
    committed: int = 0
    remaining: int = 2**20
    drafted: int = 0
    worker: WorkerDraftsView = WorkerDraftsView()
    disconnects: float = 0.0
    bandwidth_up: float | None = None
    bandwidth_down: float | None = None
    device: DeviceReading = DeviceReading()
