"""When an edge session must act although nothing arrives."""

import random
from math import inf
from typing import NamedTuple

from flexspec_mq import waiting
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.protocol.edge.types import EdgeEvent, EdgeState

POLLS = (1, 1, 2)
"""Answer timeouts from one sign of silence to the next where no other worker serves the version: polls after 1 and 2 of
them, another open after 4."""
_SPARED = 32
"""Factor up to which the wait for the next poll doubles while polls are answered without a new token."""
_REOPENS = 8
"""First answer timeouts that opens are apart at most, before jitter adds up to a half."""
_NOTICED = 0.75
"""Share of the first answer timeout after which a reader takes silence for a fault; between two polls without a new
token beside other workers of the version, at most, or a quarter of the time since the last token."""
_IDLE = 0.5
"""The same without a new token beside other workers, until the next answer which says that no work waits: another open.
Twice as long for each worker that was left since the last token, as texts that go from one busy worker to the next are
written by none."""


class Silence(NamedTuple):
    """Since when nobody speaks to a session, on the clock of `now`; `inf` where nobody is waited for.

    Attributes:
        progress_at: newest token, or word that there is too much to do.
        queued_from: first such word since the newest token.
        heard_at: newest answer, of whatever kind.
        noticed: seconds of silence from there after which a reader takes it for a fault.
    """

    progress_at: float
    queued_from: float
    heard_at: float
    noticed: float


class SessionTimers:
    """All timers of a session. Times are on the caller's clock, in seconds; `inf` is never.

    Args:
        rtt: estimate of the round trip, whose answer timeout is read here.
        rng: jitter of opens.

    Attributes:
        unheard: no worker has answered anything since the link came up again.
    """

    def __init__(self, rtt: RoundTrip, rng: random.Random) -> None:
        self._rtt = rtt
        self._rng = rng
        self._open_at = inf
        self._answered_by = 0.0
        self._backoff = 0
        self._progress_at = inf
        self._queued_from = inf
        self._stall_from = inf
        self._silent_from = inf
        self._polls = 0
        self._patience = 1
        self._elsewhere = False  # as of the newest poll, another worker may take the text
        self._token_at = inf
        self._left = 0  # workers that were left since the newest token
        self._lease = inf
        self._sent_at = inf
        self._unheard_from = inf
        self.unheard = False

    def next_open(self, now: float) -> float:
        """Arm the back-off after an open; return its length, which is also the open's expiry."""
        delay = min(_REOPENS * self._rtt.first, self._rtt.reply_timeout * 2.0**self._backoff)
        delay *= 1 + self._rng.random() / 2
        self._backoff = min(self._backoff + 1, 16)
        self._open_at = now + delay
        self._answered_by = now + self._rtt.timeout
        return delay

    @property
    def unanswered(self) -> bool:
        """Whether nobody has answered anything since the newest open."""
        return self._backoff > 0

    def open_after(self, now: float, wait: float) -> None:
        """Open again after `wait` seconds, and start the back-off afresh after that."""
        self._backoff = 0
        self._open_at = now + wait
        self._queued(now)

    def delay_open(self, now: float, failures: int) -> None:
        """Space out opens that workers keep undoing: the `failures`-th in a row."""
        self._open_at = now + min(_REOPENS * self._rtt.first, self._rtt.timeout * 2.0**failures)

    def reopening(self) -> None:
        """No worker holds the session now."""
        self._silent_from = inf
        self._left = min(self._left + 1, 8)

    def linked(self, now: float) -> None:
        """The link is up (again): ask soon."""
        self.unheard = True
        self._stall_from = now
        self._silent_from = inf
        self.wake(now)

    def wake(self, now: float, *, nobody: bool = True) -> None:
        """There is somebody to ask again: do it soon, or once the newest open is overdue that somebody got."""
        self._backoff = 0
        at = now if nobody else max(now, self._answered_by)
        self._open_at = min(self._open_at, at + self._rng.random() * waiting.RETRY[0])

    def heard(self, now: float) -> None:
        """Any answer of any worker."""
        self.unheard = False
        self._backoff = 0
        self._unheard_from = now

    def adopted(self, lease: float | None, now: float) -> None:
        """A worker holds the session for `lease` seconds after our last message; None for as long as it did before."""
        if lease is not None:
            self._lease = max(lease, waiting.ANSWER)
        self._sent_at = self._stall_from = now
        self._silent_from = inf
        self._patience = 1

    def sent(self, now: float) -> None:
        """Something went to the adopted worker."""
        self._sent_at = now

    def progressed(self, now: float) -> None:
        """New tokens were committed, by whichever worker."""
        self._progress_at = self._stall_from = self._token_at = self._unheard_from = now
        self._queued_from = inf
        self._patience = 1
        self._left = 0

    def waits_its_turn(self, now: float) -> None:
        """The adopted worker is at work and has not come to this session yet: elsewhere it would start afresh."""
        self._stall_from = now
        self._queued(now)

    def _queued(self, now: float) -> None:
        self._progress_at = now
        self._queued_from = min(self._queued_from, now)

    def answered(self, *, progress: bool) -> None:
        """The adopted worker spoke. Answers without new tokens make us ask less often, not more."""
        if not progress and self._polls:
            self._patience = min(2 * self._patience, _SPARED)
        self._silent_from = inf

    def expect(self, now: float, *, expecting: bool) -> None:
        """Say after every event whether the adopted worker owes us something."""
        if not expecting:
            self._silent_from = self._queued_from = inf
            self._stall_from = self._progress_at = self._unheard_from = now
        elif self._silent_from == inf:
            self._silent_from = now
            self._polls = 0

    def stuck(self, now: float) -> bool:
        """Whether an answer without tokens, and without work that waits, shows that the worker had better be left."""
        return (
            self._elsewhere
            and self._patience > 1
            and now - self._stall_from >= _IDLE * self._rtt.first * 2.0**self._left
        )

    def polled(self, now: float, *, elsewhere: bool, gone: bool = False) -> None:
        """The adopted worker was polled: wait on from here; `elsewhere`: another worker may take the text.

        It was silent, or is said to be gone: then a second sign of silence is enough.
        """
        self._polls = max(self._polls, 1) if gone else self._polls + 1
        self._silent_from = now
        self._elsewhere = elsewhere

    @property
    def exhausted(self) -> bool:
        """Whether the next silence must be answered by a re-open."""
        return self._polls >= (1 if self._elsewhere else len(POLLS) - 1)

    @property
    def _wait(self) -> float:
        """Seconds from the last sign of silence to the next."""
        rtt = self._rtt
        if self._elsewhere and self._polls:
            return rtt.reply_timeout * 2.0**self._left
        wait = min(5 * rtt.first, rtt.timeout * self._patience) * POLLS[min(self._polls, len(POLLS) - 1)]
        if self._elsewhere and self._patience > 1:
            waited = self._silent_from - self._token_at
            wait = min(wait, max(rtt.timeout, _NOTICED * rtt.first, waited / 4))
        return wait

    @property
    def silence(self) -> Silence:
        """Since when nobody speaks."""
        noticed = max(_NOTICED * self._rtt.first, self._rtt.timeout)
        return Silence(self._progress_at, self._queued_from, self._unheard_from, noticed)

    def _times(self, state: EdgeState, *, online: bool) -> dict[EdgeEvent, float]:
        if state in (EdgeState.NEW, EdgeState.DONE) or not online:
            return {}
        if state is EdgeState.OPENING:
            return {EdgeEvent.OPEN_DUE: self._open_at}
        return {
            EdgeEvent.STALLED: self._stall_from + waiting.STALLED,
            EdgeEvent.SILENT: self._silent_from + self._wait,
            EdgeEvent.LEASE_DUE: self._sent_at + self._lease / 3,
        }

    def due(self, state: EdgeState, now: float, *, online: bool) -> EdgeEvent | None:
        """The first event that is due, in order of weight."""
        times = self._times(state, online=online)
        return next((event for event, at in times.items() if at <= now), None)

    def next(self, state: EdgeState, *, online: bool) -> float | None:
        """When `due` has something next, or None if never."""
        at = min(self._times(state, online=online).values(), default=inf)
        return None if at == inf else at
