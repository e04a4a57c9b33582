"""Which drafted tokens ride along in a forward: those that are worth the time of a row.

A row for a drafted token makes the forward longer for all sessions in it, and gives one session a token more with the
probability that it is right, and everything before it. It is granted if it raises the sum of the logarithms of all
sessions' tokens per second. So each session counts alike, whatever it drafts; one that asks for many rows gets what
they yield to it, at no great cost to others; and where all are alike, their tokens per second are most. The objective
is that of GoodSpeed (arXiv 2512.09963), with what rows cost as measured here, and survival as in vLLM's adaptive
verification. The token that the target decides itself is never at stake.

A draft of the worker's own is worth a forward of the draft model by the same sum, so a worker stops drafting for
others long before it stops verifying for them.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log1p
from typing import TYPE_CHECKING

from cloud_worker.engine.costs import LinearCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flexspec_mq.protocol.effects import SessionKey

_PRIOR = 0.6, 2.0
"""Acceptance of a session's drafts before any was judged, and how many judged tokens that weighs."""
_FADES = 0.95
"""Weight of a session's earlier tokens when one more is judged: about twenty count."""
_FORGIVES = 0.02
"""How far what is known of a session's drafts goes back to that, by each forward that verifies none of them."""
_SESSION, _ROW = 0.03, 0.01
"""What a session and a drafted row usually add, as shares of a mean forward of the target."""
_CALL_ROW = 0.1
"""What a session usually adds to a forward of the draft."""
_READ = 0.25
"""What a token of a prompt costs the draft, as a share of what a session adds to a forward."""
_CALL = 0.15
"""What a forward of the draft is taken to cost, as a share of the target's, before one was seen."""
_PROBE = 16
"""Where drafts are alike, one forward in so many gets half of its rows, so that the price of a row stays known."""


@dataclass(slots=True)
class _Acceptance:
    """How the drafted tokens of a session fare."""

    right: float = _PRIOR[0] * _PRIOR[1]
    judged: float = _PRIOR[1]

    def saw(self, right: bool) -> None:
        self.right = _FADES * self.right + right
        self.judged = _FADES * self.judged + 1.0

    def fade(self) -> None:
        """Nothing of a draft was tried: little by little it is forgotten why, so that it is tried again some day."""
        self.right += _FORGIVES * (_PRIOR[0] * _PRIOR[1] - self.right)
        self.judged += _FORGIVES * (_PRIOR[1] - self.judged)

    @property
    def share(self) -> float:
        return self.right / self.judged


@dataclass(slots=True)
class Allocation:
    """The rows of one forward, while they are given out.

    Attributes:
        sessions: that share it, those that are still being read included.
        ms: what it takes with all rows granted so far, and the draft's forwards before it; 0 while nothing is known,
            and then all is worth it.
        row: ms of one more row.
        call: ms of a forward of the draft in any case, and for each session in it.
        granted: drafted tokens of edges that ride along, by session.
    """

    sessions: int
    ms: float
    row: float
    call: tuple[float, float]
    granted: dict[SessionKey, int] = field(default_factory=dict)
    _survival: dict[SessionKey, float] = field(default_factory=dict)
    _expected: dict[SessionKey, float] = field(default_factory=dict)

    def grant(self, drafts: Mapping[SessionKey, tuple[int, float]], most: int) -> None:
        """Give rows to the drafts of edges: as many as are best in all, to those where they are worth most.

        Args:
            drafts: by session, how many tokens, and how likely each is right if all before it are.
            most: rows in all.
        """
        order = [
            (gain, key, confidence)
            for key, (drafted, confidence) in drafts.items()
            for gain in _gains(confidence, drafted)
        ]
        order.sort(key=lambda one: -one[0])  # those of one session fall, so they stay in order
        best, count, total = 0.0, 0, 0.0
        for rows, (gain, _, _) in enumerate(order[:most], 1):
            total += gain
            if (net := total - self._loss(rows * self.row)) > best:
                best, count = net, rows
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
        base, each = self.call
        best, chosen, total, ms = 0.0, 0, 0.0, base
        for count, (gain, key) in enumerate(gains, 1):
            total += gain
            ms += each + self.row + wanted[key][1] * _READ * each
            if (net := total - self._loss(ms)) > best:
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
        survival = self._survival.get(key, 1.0) * confidence
        self._survival[key] = survival
        self._expected[key] = self._expected.get(key, 1.0) + survival
        if self.ms:
            self.ms += self.row

    def survival(self, key: SessionKey) -> float:
        """Probability that all tokens of a session with a row are right."""
        return self._survival.get(key, 1.0)

    def _gain(self, key: SessionKey, confidence: float) -> float:
        return log1p(self._survival.get(key, 1.0) * confidence / self._expected.get(key, 1.0))

    def _loss(self, ms: float) -> float:
        return self.sessions * log1p(ms / self.ms) if self.ms else 0.0  # nothing is known, or nothing counts


class DraftBudget:
    """What is known of rows, of the draft's forwards and of each session's drafts.

    Args:
        rationed: False grants every row and every forward of the draft, whatever it costs.

    Attributes:
        cut: drafted tokens of edges that the newest forward puts off.
    """

    def __init__(self, *, rationed: bool = True) -> None:
        self._rationed = rationed
        self._forward = LinearCost((_SESSION, _ROW))
        self._call = LinearCost((_CALL_ROW,))
        self._acceptance: dict[SessionKey, _Acceptance] = {}
        self._alike = 0
        self._newest = (0, 0)
        self.cut = 0

    def allocate(self, drafts: Mapping[SessionKey, int], sessions: int) -> Allocation:
        """Give the drafted tokens of edges their rows; the worker's own may follow.

        Args:
            drafts: how many tokens there are for each session that the forward decides, maybe none.
            sessions: that share the forward, those that are still being read included.
        """
        ms = self._forward.of((len(drafts), 0)) if self._rationed else 0.0
        call = (self._call.of((0,)), self._call.more(0)) if self._call.known else (_CALL * ms, 0.0)
        made = Allocation(max(1, sessions), ms, self._forward.more(1), call)
        made.grant(
            {key: (drafted, self.acceptance(key)) for key, drafted in drafts.items()}, self._most(drafts)
        )
        self.cut = sum(drafts.values()) - sum(made.granted.values())
        for key, granted in made.granted.items():
            if drafts[key] and not granted and key in self._acceptance:
                self._acceptance[key].fade()
        return made

    def acceptance(self, key: SessionKey) -> float:
        """How likely a drafted token of a session's edge is right, if all before it are."""
        known = self._acceptance.get(key)
        return _PRIOR[0] if known is None else known.share

    def judged(self, key: SessionKey, accepted: int, *, wrong: bool) -> None:
        """The target decided drafted tokens of an edge: so many were right, and maybe one wrong."""
        known = self._acceptance.setdefault(key, _Acceptance())
        for _ in range(accepted):
            known.saw(right=True)
        if wrong:
            known.saw(right=False)

    def forget(self, key: SessionKey) -> None:
        """A session is over; it need not be known."""
        self._acceptance.pop(key, None)

    def saw(self, sessions: int, rows: int, ms: float) -> None:
        """A forward of the target is done that read no prompt.

        Args:
            sessions: that it decided.
            rows: tokens that it read beyond one for each of them.
            ms: how long it took.
        """
        self._forward.saw((sessions, rows), ms)
        self._alike = self._alike + 1 if (sessions, rows) == self._newest else 0
        self._newest = sessions, rows

    def saw_call(self, sessions: int, ms: float) -> None:
        """A forward of the draft over so many sessions is done."""
        self._call.saw((sessions,), ms)

    def _most(self, drafts: Mapping[SessionKey, int]) -> int:
        """Rows for drafted tokens of this forward: all, or half of them to learn their price."""
        wanted = sum(drafts.values())
        if self._alike < _PROBE or not self._rationed:
            return wanted
        self._alike = 0
        return wanted // 2


def _gains(confidence: float, drafted: int) -> Iterator[float]:
    """What each token of a draft adds to the logarithm of the tokens that its session gets."""
    survival = expected = 1.0
    for _ in range(drafted):
        survival *= confidence
        yield log1p(survival / expected)
        expected += survival


def tokens_right(draft: Iterable[int], decided: Iterable[int]) -> int:
    """How many tokens of a draft the target decided alike, from the first on."""
    right = 0
    for drafted, token in zip(draft, decided, strict=False):
        if drafted != token:
            break
        right += 1
    return right
