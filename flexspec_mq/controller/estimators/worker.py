"""A worker as a node sees it: times of its forwards, and who drafts there."""

from collections import deque
from math import inf
from typing import NamedTuple

from flexspec_mq.controller.estimators.average import Average
from flexspec_mq.controller.estimators.round_trip import RoundTrip

_MOST = 8.0
"""Tokens of a draft that a worker takes, as far as is known before it says otherwise: what a plan drafts at most."""

_KNOWN, _UNKNOWN = 16.0, 64.0
"""Verdicts that tell what a worker drafts, at most, and verdicts that do not let it in which that fades to 1/e."""


class Expectile:
    """The expectile of a third (W. Newey and J. Powell, Asymmetric least squares, 1987).

    It is what something takes where seldom anything is done beside it.

    Attributes:
        value: None before a sample.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def update(self, sample: float) -> None:
        """Take a sample."""
        before = self.value
        if before is None:
            self.value = sample
        else:
            self.value = before + (sample - before) * (0.2 if sample < before else 0.1)


class QueueingDelay:
    """Queueing delay at the worker, for sessions that wait for drafts: seconds from a batch's arrival to its forward.

    Only where the worker has waited for the batch is that a wait for others. Samples are medians of three, as now and
    then a batch waits for a forward of its own session after all.

    Attributes:
        seconds: 0 before any was seen.
    """

    __slots__ = ("_newest", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._newest: deque[float] = deque(maxlen=3)

    def update(self, queued: float) -> None:
        """A batch waited so long at a worker that had waited for it."""
        self._newest.append(queued)
        if len(self._newest) == 3:
            self.seconds += (sorted(self._newest)[1] - self.seconds) / 4

    def fade(self) -> None:
        """A verdict came of a worker that does not wait: so waiting is tried again some day."""
        self.seconds -= self.seconds / 100


class WorkerDrafts:
    """Estimates of drafts from a worker's verdicts.

    Attributes:
        per_verdict: tokens that it drafted itself for one verdict, smoothed over about four that let it.
    """

    __slots__ = ("_granted", "_known", "per_verdict")

    def __init__(self) -> None:
        self.per_verdict = self._known = 0.0
        self._granted = _MOST

    @property
    def verdicts(self) -> int:
        """Verdicts that let it draft, fewer again while none does."""
        return round(self._known)

    @property
    def granted(self) -> int | None:
        """How many tokens of a draft a forward of the worker takes, at least one; None is all that there may be."""
        return None if self._granted >= _MOST else max(1, round(self._granted))

    def update(self, drafted: int, granted: int | None, *, may: bool = True) -> None:
        """A verdict with tokens has come.

        Args:
            drafted: tokens that the worker drafted itself.
            granted: how many of a draft it verified, if others were put off.
            may: the edge lets it draft.
        """
        if may or drafted:
            self._known = min(self._known + 1.0, _KNOWN)
            self.per_verdict += (drafted - self.per_verdict) / 4
        else:
            self._known -= self._known / _UNKNOWN
        if granted is not None:
            self._granted = (self._granted + min(_MOST, granted)) / 2
        elif self._granted < _MOST:
            self._granted = min(_MOST, self._granted + 1.0)


class StatedTimes(NamedTuple):
    """Times in a worker's status, in seconds. Nobody signs them, so measurements take their place.

    Attributes:
        forward: time of one token of one session.
        row: time that one drafted token adds to it.
        token: time of a token of its own draft.
        read: time by which a token of a prompt that this draft reads holds up forwards.
    """

    forward: float | None = None
    row: float | None = None
    token: float | None = None
    read: float | None = None


class WorkerEstimates:
    """Estimates of a worker, over all sessions of a node there, in seconds.

    Attributes:
        round_trip: round trip of the network to it.
        trip: round trip of the newest session there, with which another one begins; None before any.
        measured_at: when that was seen last.
        asked_at: when an answer was asked for last, only to know it.
        queue: wait of batches there for their forward.
        compute: forwards that read no prompt of ours.
        forward: forwards for which nobody drafts and no prompt is read.
        queueing: wait for other sessions.
        drafts: estimates of drafts from its verdicts.
        stated: times that it states itself.
    """

    def __init__(self) -> None:
        self.round_trip = Average()
        self.trip: RoundTrip | None = None
        self.measured_at = self.asked_at = -inf
        self.queue = Average()
        self.compute = Average()
        self.forward = Expectile()
        self.queueing = QueueingDelay()
        self.drafts = WorkerDrafts()
        self.stated = StatedTimes()
