"""The rows of one forward, while they are given out: to the drafted tokens that are worth the time of a row.

A row for a drafted token makes the forward longer for all sessions in it, and gives one session a token more with the
probability that it is right, and everything before it. It is granted if it raises the sum of the logarithms of all
sessions' tokens per second, the objective of GoodSpeed (arXiv 2512.09963). So each session counts alike, whatever it
drafts, and where all are alike, their tokens per second are most. And no session pays for others: the forward never
gets longer than makes up for the tokens that each session in it gets by drafts, within `PAYS`. The token that the
target decides itself is never at stake.

A draft of the worker's own is worth a forward of the draft model by the same rules, so a worker stops drafting for
others long before it stops verifying for them.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import inf, log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flexspec_mq.protocol.effects import SessionKey

PAYS = 0.03
"""Share of its tokens per second that a session may lose by the drafts of others."""
PAYS_LOOKUPS = 0.01
"""The same, by what the worker looks up for others by itself: nobody's device asked for that."""


@dataclass(slots=True)
class Allocation:
    """The rows of one forward.

    Attributes:
        sessions: Sessions that it is for, as `fair_shares.weight` counts them.
        ms: Time with all rows granted so far, and the draft's forwards before it; 0 while nothing is known,
            and then all is worth it.
        row: ms of one more row.
        call: ms of a forward of the draft in any case, and for each session in it.
        read: ms that the draft takes for a token of a prompt.
        usual: tokens that a session lately got by a forward, for those that the forward decides.
        granted: drafted tokens of edges that ride along, by session.
    """

    sessions: int
    ms: float
    row: float
    call: tuple[float, float]
    read: float = 0.0
    usual: Mapping[SessionKey, float] = field(default_factory=dict)
    granted: dict[SessionKey, int] = field(default_factory=dict)
    _survival: dict[SessionKey, float] = field(default_factory=dict)
    _expected: dict[SessionKey, float] = field(default_factory=dict)
    _plain: float = 0.0

    def __post_init__(self) -> None:
        """Remember what the forward takes without any draft."""
        self._plain = self.ms

    def grant(self, drafts: Mapping[SessionKey, tuple[int, float]], most: int) -> None:
        """Give rows to the drafts of edges: as many as are best in all, to those where they are worth most.

        A draft has a number of tokens, and a probability that each is right if all before it are.
        """
        order = [
            (gain, key, confidence)
            for key, (drafted, confidence) in drafts.items()
            for gain in _gains(confidence, drafted)
        ]
        order.sort(key=lambda one: -one[0])  # those of one session fall, so they stay in order
        least = _Least({key: self._gets(key) for key in self.usual})
        best, count, total = 0.0, 0, 0.0
        for rows, (gain, key, confidence) in enumerate(order[:most], 1):
            self._takes(key, confidence)
            least.raise_to(key, self._gets(key))
            total += gain
            more = rows * self.row
            if self._bearable(more, least.value) and (net := total - self._loss(more)) > best:
                best, count = net, rows
        self._survival.clear()
        self._expected.clear()
        self.granted = dict.fromkeys(drafts, 0)
        for _, key, confidence in order[:count]:
            self.granted[key] += 1
            self.add(key, confidence)

    def worth_calling(self, wanted: Mapping[SessionKey, tuple[float, float]]) -> list[SessionKey]:
        """Sessions that the next forward of the draft is best run for; none if it is not worth its time.

        Wanted are, by session, the probability that its token is right if all before it are, and the tokens that the
        draft has to read for each forward that it will be of use in.
        """
        gains = sorted(((self._gain(key, one), key) for key, (one, _) in wanted.items()), reverse=True)
        least = _Least({key: self._gets(key) for key in self.usual})
        base, each = self.call
        best, chosen, total, ms = 0.0, 0, 0.0, base
        for count, (gain, key) in enumerate(gains, 1):
            confidence, unread = wanted[key]
            total += gain
            ms += each + self.row + unread * self.read
            least.raise_to(key, self._gets(key) + self.survival(key) * confidence / 2)
            if self._bearable(ms, least.value) and (net := total - self._loss(ms)) > best:
                best, chosen = net, count
        return [key for _, key in gains[:chosen]]

    def call_cost(self, sessions: int, unread: float = 0.0) -> float:
        """Tokens that each of so many sessions loses by a forward of the draft over them, all others counted in."""
        base, each = self.call
        return self._loss(base + sessions * each + unread * self.read) / sessions

    def called(self, ms: float) -> None:
        """A forward of the draft took so long."""
        if self.ms:
            self.ms += ms

    def worth(self, key: SessionKey, confidence: float) -> bool:
        """Whether a drafted token of a session is worth its row, if it is right with this probability."""
        return self._gain(key, confidence) >= self._loss(self.row)

    @property
    def bears(self) -> bool:
        """Whether one more row, for what the worker looked up, is no loss to the session that gets the least."""
        return self._bearable(self.row, min(map(self._gets, self.usual), default=1.0), PAYS_LOOKUPS)

    def add(self, key: SessionKey, confidence: float) -> None:
        """It gets a row."""
        self._takes(key, confidence)
        if self.ms:
            self.ms += self.row

    def survival(self, key: SessionKey) -> float:
        """Probability that all tokens of a session with a row are right."""
        return self._survival.get(key, 1.0)

    def _takes(self, key: SessionKey, confidence: float) -> None:
        survival = self.survival(key) * confidence
        self._survival[key] = survival
        self._expected[key] = self._expected.get(key, 1.0) + survival

    def _gets(self, key: SessionKey) -> float:
        """Tokens that a session gets: between what this forward promises and what it usually comes to."""
        return (self._expected.get(key, 1.0) + self.usual.get(key, 1.0)) / 2

    def _gain(self, key: SessionKey, confidence: float) -> float:
        return log1p(self.survival(key) * confidence / self._expected.get(key, 1.0))

    def _loss(self, ms: float) -> float:
        return self.sessions * log1p(ms / self.ms) if self.ms else 0.0  # nothing is known, or nothing counts

    def _bearable(self, ms: float, least: float, pays: float = PAYS) -> bool:
        """Whether so much more is no loss to the session that gets the least, or one of `pays` at most.

        Alone, a session may bet on its own tokens, since it pays for them itself.
        """
        if self.sessions == 1 or not self.ms:
            return True
        return self.ms + ms <= max(1.0 + pays, least) * self._plain


class _Least:
    """The least of values that rise, one for each key."""

    def __init__(self, values: dict[SessionKey, float]) -> None:
        self._values = values
        self._heap = [(value, key) for key, value in values.items()]
        heapq.heapify(self._heap)

    def raise_to(self, key: SessionKey, value: float) -> None:
        """A key that is not among them is added."""
        self._values[key] = value
        heapq.heappush(self._heap, (value, key))

    @property
    def value(self) -> float:
        """Infinite without any."""
        while self._heap and self._heap[0][0] < self._values[self._heap[0][1]]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else inf


def _gains(confidence: float, drafted: int) -> Iterator[float]:
    """Gain of each token of a draft in the logarithm of the tokens that its session gets."""
    survival = expected = 1.0
    for _ in range(drafted):
        survival *= confidence
        yield log1p(survival / expected)
        expected += survival
