"""Round-trip estimation and the answer timeout, after RFC 6298, with the worker's own time taken out."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from flexspec_mq import waiting

_MAX_OUTSTANDING = 64
_REPLY = 0.75
"""Share of the first answer timeout that an answer which waits for no forward is given at least."""


class RoundTrip:
    """Smoothed round trip of the network, in seconds.

    Every message that wants an answer carries a `seq`; a verdict echoes one. Each `seq` gives at most one sample,
    and an echo retires all older ones, so neither copies nor retransmissions make false samples (Karn's rule).

    An overdue answer may say how long the link stood still, and not how long its round trip is. A message that goes out
    when something is heard again tells which: it is late only if the round trip is longer now.

    Args:
        first: answer timeout until a round trip and the worker's time for a forward are known, in seconds; all bounds
            of later ones but the least are factors of it.

    Attributes:
        first: the same.
        smoothed, deviation: of the network, in seconds; None and 0 while nothing is known.
        unstalled: newest sample of a message that no standstill made late; None before any.
        jumped: the newest sample is of a link whose round trip became longer.
        doubted_at: when an answer came that gave no sample, or anything while a question was overdue: it is worth a
            question whether the round trip is longer now. None while it is not.
        measured_at: time of the newest sample; minus infinity before the first.
        queue, compute: newest ones of the worker, in seconds.
        arrived: position after the last token of the newest message that the worker is known to have, 0 if these were
            drafted in vain.
        timeout: seconds after which silence is worth a question.
        reply_timeout: seconds after which an answer that waits for no forward, as that to an open or a poll, is late.
    """

    def __init__(self, first: float = waiting.ANSWER) -> None:
        self.first = first
        self._sent: OrderedDict[int, tuple[float, int, bool]] = OrderedDict()
        self._computed = False
        self._service = 0.0  # decaying peak of queue + compute: batches of other sessions come and go
        self.measured_at = -inf
        self.smoothed: float | None = None
        self.deviation = 0.0
        self.unstalled: float | None = None
        self.jumped = False
        self.doubted_at: float | None = None
        self._usual = 0.0  # the timeout then
        self._question: tuple[int, float] | None = None  # the oldest unanswered: number, and when it went out
        self.queue = 0.0
        self.compute = 0.0
        self.arrived = 0
        self.timeout = self.reply_timeout = first
        self._set_timeouts()

    def assume(self, known: RoundTrip) -> None:
        """Begin with what an earlier session measured. The first sample replaces it, as if it had not been there.

        The first timeout can only get longer by it: how long the worker computes is still unknown.
        """
        self.smoothed, self.deviation, self.unstalled = known.smoothed, known.deviation, known.unstalled
        self._set_timeouts()

    def sent(self, seq: int, now: float, end: int = 0, *, question: bool = False) -> None:
        """Remember when `seq` went out; the oldest of too many is forgotten and gives no sample.

        Args:
            seq: number of the message.
            now: seconds.
            end: position after its last token.
            question: true if it is answered whatever becomes of its tokens.
        """
        oldest = next(iter(self._sent.values()))[0] if self._sent else now
        self._sent[seq] = now, end, self.doubted_at is None and now - oldest > self.timeout
        if question and self._question is None:
            self._question = seq, now
        if len(self._sent) > _MAX_OUTSTANDING:
            self._sent.popitem(last=False)

    def rolled_back(self) -> None:
        """The pending draft was wrong: no forward verifies any of it."""
        self.arrived = 0
        for seq, (at, _, stalled) in self._sent.items():
            self._sent[seq] = at, 0, stalled

    def answered(self, seq: int, queue_ms: int, compute_ms: int, now: float) -> float | None:
        """Take a verdict's echo and times.

        Args:
            seq: echoed.
            queue_ms: time that the batch waited for its forward; 0 for answers that waited for none.
            compute_ms: time of the forward.
            now: seconds.

        Returns:
            The sample, in seconds, if it gave one and the link did not stand still.
        """
        self.jumped = False
        if self._question is not None:
            asked, at = self._question
            if now - at > self.timeout:
                self._doubt(now)
            if asked <= seq:
                self._question = None
        if queue_ms or compute_ms:
            self._computed = True
            self.queue = queue_ms / 1000
            self.compute = compute_ms / 1000
            self._service = max(self.queue + self.compute, 0.9 * self._service)
        sent, sample = self._sent.get(seq), None
        while self._sent and next(iter(self._sent)) <= seq:
            self._sent.popitem(last=False)
        if sent is not None:
            at, self.arrived, stalled = sent
            elapsed = max(0.0, now - at - (queue_ms + compute_ms) / 1000)
            late = elapsed > (self.timeout if self.doubted_at is None else self._usual)
            if self.doubted_at is not None and at >= self.doubted_at:
                self.jumped, self.doubted_at = late, None
            if self.jumped or not (late or stalled):
                self.unstalled = sample = elapsed
            else:
                self._doubt(now)
            self._sample(elapsed, now)
        self._set_timeouts()
        return sample

    def _doubt(self, now: float) -> None:
        if self.doubted_at is None:
            self.doubted_at, self._usual = now, self.timeout

    def _sample(self, elapsed: float, now: float) -> None:
        first, self.measured_at = self.measured_at == -inf, now
        if first or self.smoothed is None:
            self.smoothed, self.deviation = elapsed, elapsed / 2
            return
        self.deviation += (abs(self.smoothed - elapsed) - self.deviation) / 4
        self.smoothed += (elapsed - self.smoothed) / 8

    def _set_timeouts(self) -> None:
        if self.smoothed is None:
            return
        # On a link without jitter the deviation tends to 0, and the next forward may still be a little longer.
        trip = self.smoothed + max(4 * self.deviation, self.smoothed / 4, 0.05)
        service = min(self._service, self.queue + self.compute + self.first)
        unknown, most = 0.0 if self._computed else self.first, 5 * self.first
        # A batch may arrive just after another forward began, hence one more compute time.
        self.timeout = min(most, max(waiting.RTO_LEAST, unknown, trip + service + self.compute))
        self.reply_timeout = min(most, max(_REPLY * self.first, unknown, trip))
