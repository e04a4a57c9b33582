"""The rows of one forward, while they are given out: to the drafted tokens that are worth the time of a row.

A row for a drafted token makes the forward longer for all sessions in it, and gives one session a token more with the
probability that it is right, and everything before it. It is granted if it raises the sum of the logarithms of all
sessions' tokens per second, the objective of GoodSpeed (arXiv 2512.09963). That is over many forwards, not in this
one: as in proportional-fair scheduling, a token counts by what its session lately got by a forward, so one with a
draft in every third forward is not taken for one that gets three tokens by each. So each session counts alike,
whatever it drafts, and where all are alike, their tokens per second are most. And no minority has others pay for it:
the forward never gets longer than makes up for the tokens that half of the sessions in it usually get by drafts at
least, within `PAYS`; nor than that by more than `MOST` for any of them. The token that the target decides itself is
never at stake.

A draft of the worker's own is worth a forward of the draft model by the same rules, so a worker stops drafting for
others long before it stops verifying for them.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from math import inf, log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flexspec_mq.protocol.effects import SessionKey

PAYS = 0.03
"""Of its tokens per second, what a session may lose by the drafts of a few others."""
MOST = 0.1
"""The same, by the drafts of most others."""


@dataclass(slots=True)
class Allocation:
    """The rows of one forward.

    Attributes:
        sessions: that share it, those that are still being read included.
        ms: what it takes with all rows granted so far, and the draft's forwards before it; 0 while nothing is known,
            and then all is worth it.
        row: ms of one more row.
        call: ms of a forward of the draft in any case, and for each session in it.
        read: ms that the draft takes for a token of a prompt.
        usual: tokens that a session lately got by a forward, or could have, for those that the forward decides.
        got: tokens that it did get; one where nothing is known.
        granted: drafted tokens of edges that ride along, by session.
    """

    sessions: int
    ms: float
    row: float
    call: tuple[float, float]
    read: float = 0.0
    usual: Mapping[SessionKey, float] = field(default_factory=dict)
    got: Mapping[SessionKey, float] = field(default_factory=dict)
    granted: dict[SessionKey, int] = field(default_factory=dict)
    _survival: dict[SessionKey, float] = field(default_factory=dict)
    _expected: dict[SessionKey, float] = field(default_factory=dict)
    _plain: float = 0.0

    def __post_init__(self) -> None:
        """Remember what the forward takes without any draft."""
        self._plain = self.ms

    def grant(self, drafts: Mapping[SessionKey, tuple[int, float]], most: int) -> None:
        """Give rows to the drafts of edges: as many as are best in all, to those where they are worth most.

        Args:
            drafts: by session, how many tokens, and how likely each is right if all before it are.
            most: rows in all.
        """
        order = [
            (gain, key, confidence)
            for key, (drafted, confidence) in drafts.items()
            for gain in self._gains(key, confidence, drafted)
        ]
        order.sort(key=lambda one: -one[0])  # those of one session fall, so they stay in order
        tokens = _Tokens({key: self._gets(key) for key in self.usual})
        best, count, total = 0.0, 0, 0.0
        for rows, (gain, key, confidence) in enumerate(order[:most], 1):
            self._takes(key, confidence)
            tokens.raise_to(key, self._gets(key))
            total += gain
            more = rows * self.row
            if self._bearable(more, tokens.longer) and (net := total - self._loss(more)) > best:
                best, count = net, rows
        self._survival.clear()
        self._expected.clear()
        self.granted = dict.fromkeys(drafts, 0)
        for _, key, confidence in order[:count]:
            self.granted[key] += 1
            self.add(key, confidence)

    def worth_calling(self, wanted: Mapping[SessionKey, tuple[float, float]]) -> list[SessionKey]:
        """Sessions that the next forward of the draft is best run for; none if it is not worth its time.

        Args:
            wanted: by session, how likely its token is right, if all before it are; and how many tokens the draft has
                to read for each forward that it will be of use in.
        """
        gains = sorted(((self._gain(key, one), key) for key, (one, _) in wanted.items()), reverse=True)
        tokens = _Tokens({key: self._gets(key) for key in self.usual})
        base, each = self.call
        best, chosen, total, ms = 0.0, 0, 0.0, base
        for count, (gain, key) in enumerate(gains, 1):
            confidence, unread = wanted[key]
            total += gain
            ms += each + self.row + unread * self.read
            tokens.raise_to(key, self._gets(key) + self.survival(key) * confidence / 2)
            if self._bearable(ms, tokens.longer) and (net := total - self._loss(ms)) > best:
                best, chosen = net, count
        return [key for _, key in gains[:chosen]]

    def call_cost(self, sessions: int) -> float:
        """Tokens that each of so many sessions loses by a forward of the draft over them, all others counted in."""
        base, each = self.call
        return self._loss(base + sessions * each) / sessions

    def called(self, ms: float) -> None:
        """A forward of the draft took so long."""
        if self.ms:
            self.ms += ms

    def worth(self, key: SessionKey, confidence: float) -> bool:
        """Whether a drafted token of a session is worth its row, if it is right with this probability."""
        return self._gain(key, confidence) >= self._loss(self.row)

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
        """Tokens that a session gets: what it usually comes to, or between that and what this forward promises."""
        usual = self.usual.get(key, 1.0)
        return max(usual, (self._expected.get(key, 1.0) + usual) / 2)

    def _gain(self, key: SessionKey, confidence: float) -> float:
        """What a token is worth that is right with this probability if all before it are."""
        return self._worth(key, self.survival(key) * confidence, self._expected.get(key, 1.0))

    def _gains(self, key: SessionKey, confidence: float, drafted: int) -> Iterator[float]:
        """What each token of a draft is worth."""
        survival = expected = 1.0
        for _ in range(drafted):
            survival *= confidence
            yield self._worth(key, survival, expected)
            expected += survival

    def _worth(self, key: SessionKey, survival: float, expected: float) -> float:
        if self.sessions == 1:
            return log1p(survival / expected)  # each of its forwards stands for itself
        return survival / self.got.get(key, 1.0)

    def _loss(self, ms: float) -> float:
        return self.sessions * log1p(ms / self.ms) if self.ms else 0.0  # nothing is known, or nothing counts

    def _bearable(self, ms: float, longer: float) -> bool:
        """Whether so much more is no loss to those that get the least, but for what they may lose.

        Alone, a session may bet on its own tokens, since it pays for them itself.
        """
        if self.sessions == 1 or not self.ms:
            return True
        return self.ms + ms <= max(1.0 + PAYS, longer) * self._plain


class _Tokens:
    """Tokens that sessions get, which rise."""

    def __init__(self, values: dict[SessionKey, float]) -> None:
        self._values = values
        self._sorted = sorted(values.values())

    def raise_to(self, key: SessionKey, value: float) -> None:
        """A key that is not among them is added."""
        if key in self._values:
            del self._sorted[bisect.bisect_left(self._sorted, self._values[key])]
        self._values[key] = value
        bisect.insort(self._sorted, value)

    @property
    def longer(self) -> float:
        """How many times as long a forward may be for these; infinite without any."""
        if not self._sorted:
            return inf
        return min(self._sorted[(len(self._sorted) - 1) // 2], (1.0 + MOST) * self._sorted[0])
