"""Rows of a forward for drafted tokens: to those that are worth the time of a row.

A row for a drafted token makes the forward longer for all sessions in it, and gives one session a token more with the
probability that it is right, and everything before it. It is granted if it raises the sum of the logarithms of all
sessions' tokens per second, the objective of GoodSpeed (arXiv 2512.09963). So each session counts alike, whatever it
drafts, and where all are alike, their tokens per second are most. And no session pays for others: the forward never
gets longer than makes up for the tokens that each session in it gets by drafts, within `GIVES`. The token that the
target decides itself is never at stake.

A draft of the worker's own is worth a forward of the draft model by the same rules, so a worker stops drafting for
others long before it stops verifying for them. How a session's drafts fared so far says what the next one is worth, as
in vLLM's adaptive verification, and how its device's did what its first one is: who drafts at random has no new session
believed. The cost of a row is measured.

Pure: it is told milliseconds, and measures nothing.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, log1p

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.scheduling.costs import LEARN, PRIMES, ForwardCost, LinearCost
from flexspec_mq.scheduling.step_budget import CHUNK, GIVES, PROBE

PRIOR = 0.6
"""How likely a drafted token is right before any of its device was judged."""
_MOST_DEVICES = 4096
"""Devices whose drafts are remembered, those that were judged last."""
_LOOKUPS_GIVE = 0.01
"""Share of its speed that a session may lose by what the worker looks up for others: nobody's device asked for that."""
_CALL, _IN_CALL = 0.15, (0.1, 0.05)
"""Usual cost of a forward of the draft, as a share of the target's, and of a session and a token of a prompt in it, as
shares of that."""


@dataclass(slots=True)
class Allocation:
    """The rows of one forward, while they are given out.

    Attributes:
        sessions: Sessions that it is for, see `step_budget.weight`.
        ms: Time with all rows granted so far, and the draft's forwards before it; 0 while nothing is known,
            and then all is worth it.
        row: ms of one more row.
        call: ms of a forward of the draft in any case, for each session in it, and for each token of a prompt.
        usual: tokens that a session lately got by a forward, for those that the forward decides.
        granted: drafted tokens of edges that ride along, by session.
    """

    sessions: int
    ms: float
    row: float
    call: tuple[float, float, float]
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
        order.sort(key=lambda row: -row[0])  # those of one session fall, so they stay in order
        least = _Least({key: self._gets(key) for key in self.usual})
        best, count, total = 0.0, 0, 0.0
        for rows, (gain, key, confidence) in enumerate(order[:most], 1):
            self._take(key, confidence)
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
        gains = sorted(
            ((self._gain(key, confidence), key) for key, (confidence, _) in wanted.items()), reverse=True
        )
        least = _Least({key: self._gets(key) for key in self.usual})
        base, each, read = self.call
        best, chosen, total, ms = 0.0, 0, 0.0, base
        for count, (gain, key) in enumerate(gains, 1):
            confidence, unread = wanted[key]
            total += gain
            ms += each + self.row + unread * read
            least.raise_to(key, self._gets(key) + self.survival(key) * confidence / 2)
            if self._bearable(ms, least.value) and (net := total - self._loss(ms)) > best:
                best, chosen = net, count
        return [key for _, key in gains[:chosen]]

    def call_cost(self, sessions: int, unread: float = 0.0) -> float:
        """Tokens that each of so many sessions loses by a forward of the draft over them, all others counted in."""
        base, each, read = self.call
        return self._loss(base + sessions * each + unread * read) / sessions

    def called(self, ms: float) -> None:
        """Count the time of a forward of the draft."""
        if self.ms:
            self.ms += ms

    def worth(self, key: SessionKey, confidence: float) -> bool:
        """Whether a drafted token of a session is worth its row, if it is right with this probability."""
        return self._gain(key, confidence) >= self._loss(self.row)

    @property
    def bears(self) -> bool:
        """Whether one more row, for what the worker looked up, is no loss to the session that gets the least."""
        return self._bearable(self.row, min(map(self._gets, self.usual), default=1.0), _LOOKUPS_GIVE)

    def add(self, key: SessionKey, confidence: float) -> None:
        """Give a drafted token its row."""
        self._take(key, confidence)
        if self.ms:
            self.ms += self.row

    def survival(self, key: SessionKey) -> float:
        """Probability that all tokens of a session with a row are right."""
        return self._survival.get(key, 1.0)

    def _take(self, key: SessionKey, confidence: float) -> None:
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


class DraftBudget:
    """Estimates by which rows are given out: how each session's drafts fare, and what the draft's forwards take.

    Args:
        cost: Measured cost of the target's forwards.
        rationed: Without rationing every row and forward of the draft is granted, whatever it costs.

    Attributes:
        call: Cost of a forward of the draft, by sessions and tokens of prompts; tell it what they take.
        cut: Drafted tokens of edges that the newest forward puts off.
    """

    def __init__(self, cost: ForwardCost | None = None, *, rationed: bool = True) -> None:
        self.call = LinearCost(_IN_CALL)
        self.cut = 0
        self._cost = cost or ForwardCost()
        self._rationed = rationed
        self._acceptance: dict[SessionKey, float] = {}
        self._by_device: dict[str, float] = {}
        self._got: dict[SessionKey, float] = {}
        self._offered: dict[SessionKey, float] = {}
        self._alike = 0
        self._newest: tuple[int, int] = (0, 0)

    def prime(self, calls: Sequence[tuple[int, float]], read: float | None) -> None:
        """Begin with forwards of the draft that were timed before any text, and what a token of a prompt took."""
        for _ in range(PRIMES):
            for sessions, ms in calls:
                self.call.observe((sessions, 0), ms)
            if read is not None:
                self.call.observe((0, CHUNK), CHUNK * read)

    def allocate(self, drafts: Mapping[SessionKey, int], sessions: int, reading: float = 0.0) -> Allocation:
        """Give the drafted tokens of edges their rows; the worker's own may follow.

        The forward is for so many sessions, see `step_budget.weight`, and reads prompts for so many ms.
        """
        plain = self._cost.predict(len(drafts)) if self._rationed else 0.0
        call, ms = self.call, plain + reading if plain else 0.0
        price = call.predict((0, 0)), call.each(0), call.each(1)
        if not call.known:
            price = _CALL * plain, 0.0, _CALL * _IN_CALL[1] * plain
        usual = {key: self._usual(key, drafted) for key, drafted in drafts.items()}
        rows = Allocation(max(1, sessions), ms, self._cost.row, price, usual)
        rows.grant(
            {key: (drafted, self.acceptance(key)) for key, drafted in drafts.items()}, self._most(drafts)
        )
        granted_rows = sum(rows.granted.values())
        self.cut = sum(drafts.values()) - granted_rows
        self._alike = self._alike + 1 if (len(drafts), granted_rows) == self._newest else 0
        self._newest = len(drafts), granted_rows
        for key, granted in rows.granted.items():
            if drafts[key] and not granted:
                # Little by little it is forgotten why, so that a draft of it is tried again some day.
                if key in self._acceptance:
                    self._acceptance[key] = _newer(self._acceptance[key], PRIOR)
                elif key[0] in self._by_device:
                    self._by_device[key[0]] = _newer(self._by_device[key[0]], PRIOR)
        return rows

    def acceptance(self, key: SessionKey) -> float:
        """How likely a drafted token of a session's edge is right, if all before it are."""
        return self._acceptance.get(key, self._by_device.get(key[0], PRIOR))

    def decided(self, key: SessionKey, tokens: int, accepted: int, *, wrong: bool) -> None:
        """A forward decided tokens of a session, some drafted by the edge; the next of its draft was wrong or not."""
        self._got[key] = _newer(self._got.get(key), float(tokens))
        for right in [1.0] * accepted + [0.0] * wrong:
            self._acceptance[key] = _newer(self.acceptance(key), right)
            mean = self._by_device.pop(key[0], PRIOR)
            self._by_device[key[0]] = _newer(mean, right)
            if len(self._by_device) > _MOST_DEVICES:
                del self._by_device[next(iter(self._by_device))]

    def forget(self, key: SessionKey) -> None:
        """A session is over; it need not be known."""
        for known in (self._acceptance, self._got, self._offered):
            known.pop(key, None)

    def _usual(self, key: SessionKey, drafted: int) -> float:
        """Tokens of a session by a forward lately: what it got, or would have got with a row for all its drafts.

        Counted by what it got alone, sessions whose drafts come in every other forward would bear no rows of others
        in those between, nor others theirs: nobody would ever get more than one token.
        """
        confidence = self.acceptance(key)
        offered = sum(confidence**place for place in range(drafted + 1))
        self._offered[key] = _newer(self._offered.get(key), offered)
        return max(self._offered[key], self._got.get(key, 1.0))

    def _most(self, drafts: Mapping[SessionKey, int]) -> int:
        """Rows for drafted tokens of this forward: all, or half where all are alike, so that their price is known."""
        wanted = sum(drafts.values())
        return wanted // 2 if self._alike >= PROBE and self._rationed else wanted


def _newer(mean: float | None, value: float) -> float:
    return value if mean is None else mean + LEARN * (value - mean)
