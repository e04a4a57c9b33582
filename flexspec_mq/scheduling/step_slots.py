"""Slots of a step for drafted tokens: to those that are worth the time of a slot.

A slot for a drafted token makes the forward longer for all sessions in it, and gives one session a token more with the
probability that it is right, and everything before it. It is granted if it raises the sum of the logarithms of all
sessions' tokens per second, the objective of GoodSpeed (arXiv 2512.09963). So each session counts alike, whatever it
drafts, and where all are alike, their tokens per second are most. And no session pays for others: the forward never
gets longer than makes up for the tokens that each session in it gets by drafts, within `GIVES`. The token that the
target decides itself is never at stake.

A draft of the worker's own is worth a forward of the draft model by the same rules, so a worker stops drafting for
others long before it stops verifying for them.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, log1p

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.scheduling.costs import LinearCost

GIVES = 0.03
"""Share of its speed that a session may lose by the slots that others have beyond their fair share."""
_LOOKUPS_GIVE = 0.01
"""Share of its speed that a session may lose by what the worker looks up for others: nobody's device asked for that."""


@dataclass(slots=True)
class StepSlots:
    """Slots of one step, while they are given out.

    Attributes:
        sessions: Sessions for whose sake the forward should be short, see `slot_budget.weight`.
        ms: Time with all slots granted so far, and the draft's forwards before it; 0 while nothing is known,
            and then all is worth it.
        slot: ms of one more slot.
        call: ms of a forward of the draft in any case, for each session in it, and for each token of a prompt.
        calls: told what forwards of the draft take, for steps to come.
        usual: tokens that a session lately got by a forward, for those that the step decides.
        granted: drafted tokens of devices with a slot, likewise.
        held_back: sessions that are ready, and left to later steps.
        cut: drafted tokens of devices that are.
    """

    sessions: int
    ms: float
    slot: float
    call: tuple[float, float, float]
    calls: LinearCost
    usual: Mapping[SessionKey, float]
    granted: dict[SessionKey, int] = field(default_factory=dict)
    held_back: int = 0
    cut: int = 0
    _survival: dict[SessionKey, float] = field(default_factory=dict)
    _expected: dict[SessionKey, float] = field(default_factory=dict)
    _plain: float = 0.0

    def __post_init__(self) -> None:
        """Remember what the forward takes without any draft."""
        self._plain = self.ms

    def grant(self, drafts: Mapping[SessionKey, tuple[int, float]], most: int) -> None:
        """Give slots to the drafts of devices: as many as are best in all, to those where they are worth most.

        A draft has a number of tokens, and a probability that each is right if all before it are.
        """
        order = [
            (gain, key, confidence)
            for key, (drafted, confidence) in drafts.items()
            for gain in _gains(confidence, drafted)
        ]
        order.sort(key=lambda offer: -offer[0])  # those of one session fall, so they stay in order
        least = _Least(self.usual, self._gets)
        best, count, total = 0.0, 0, 0.0
        for slots, (gain, key, confidence) in enumerate(order[:most], 1):
            self._add(key, confidence)
            total += gain
            more = slots * self.slot
            if self._bearable(more, least()) and (net := total - self._loss(more)) > best:
                best, count = net, slots
        self._survival.clear()
        self._expected.clear()
        self.granted = dict.fromkeys(drafts, 0)
        for _, key, confidence in order[:count]:
            self.granted[key] += 1
            self._add(key, confidence)
            self.spend(self.slot)
        self.cut = len(order) - count

    def worth_calling(self, wanted: Mapping[SessionKey, tuple[float, float]]) -> list[SessionKey]:
        """Sessions that the next forward of the draft is best run for; none if it is not worth its time.

        Wanted are, by session, the probability that its token is right if all before it are, and the tokens that the
        draft has to read for each forward that it will be of use in.
        """
        gains = sorted(
            ((self._gain(key, confidence), key) for key, (confidence, _) in wanted.items()), reverse=True
        )
        raised = dict[SessionKey, float]()
        least = _Least(self.usual.keys() | wanted.keys(), lambda key: self._gets(key) + raised.get(key, 0.0))
        base, each, read = self.call
        best, chosen, total, ms = 0.0, 0, 0.0, base
        for count, (gain, key) in enumerate(gains, 1):
            confidence, unread = wanted[key]
            total += gain
            ms += each + self.slot + unread * read
            raised[key] = self.survival(key) * confidence / 2
            if self._bearable(ms, least()) and (net := total - self._loss(ms)) > best:
                best, chosen = net, count
        return [key for _, key in gains[:chosen]]

    def spend(self, ms: float) -> None:
        """Count time of one more slot, or of a forward of the draft."""
        if self.ms:
            self.ms += ms

    @property
    def bears(self) -> bool:
        """Whether one more slot, for what the worker looked up, is no loss to the session that gets the least."""
        return self._bearable(self.slot, min(map(self._gets, self.usual), default=1.0), _LOOKUPS_GIVE)

    def take(self, key: SessionKey, confidence: float) -> bool:
        """Give a token that the worker drafted a slot, if it is worth one, being right with this probability."""
        if self._gain(key, confidence) < self._loss(self.slot):
            return False
        self._add(key, confidence)
        self.spend(self.slot)
        return True

    def survival(self, key: SessionKey) -> float:
        """Probability that all drafted tokens of a session with a slot are right."""
        return self._survival.get(key, 1.0)

    def _add(self, key: SessionKey, confidence: float) -> None:
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

    def _bearable(self, ms: float, least: float, gives: float = GIVES) -> bool:
        """Whether so much more is no loss to the session that gets the least, or one of `gives` at most.

        Alone, a session may bet on its own tokens, since it pays for them itself.
        """
        if self.sessions == 1 or not self.ms:
            return True
        return self.ms + ms <= max(1.0 + gives, least) * self._plain


class _Least:
    """The least of values that never fall, one for each key; infinite without any."""

    def __init__(self, keys: Collection[SessionKey], value: Callable[[SessionKey], float]) -> None:
        self._value = value
        self._heap = [(value(key), key) for key in keys]
        heapq.heapify(self._heap)

    def __call__(self) -> float:
        while self._heap and self._heap[0][0] < (now := self._value(self._heap[0][1])):
            heapq.heapreplace(self._heap, (now, self._heap[0][1]))
        return self._heap[0][0] if self._heap else inf


def _gains(confidence: float, drafted: int) -> Iterator[float]:
    """Gain of each token of a draft in the logarithm of the tokens that its session gets."""
    survival = expected = 1.0
    for _ in range(drafted):
        survival *= confidence
        yield log1p(survival / expected)
        expected += survival
