"""Estimates by which rows are given out: of rows, of the draft's forwards and of each session's drafts.

How a session's drafts fared so far says what the next one is worth, as in vLLM's adaptive verification; what rows
cost is measured. Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.scheduling.allocation import Allocation
from flexspec_mq.scheduling.costs import LinearCost, MeasuredCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flexspec_mq.protocol.effects import SessionKey

_PRIOR = 0.6, 2.0
"""Acceptance of a session's drafts before any was judged, and how many judged tokens that weighs."""
_FADES = 0.95
"""Weight of a session's earlier tokens when one more is judged: about twenty count."""
_FORGIVES = 0.02
"""How far what is known of a session's drafts goes back to that, by each forward that verifies none of them."""
_SESSION, _ROW, _PIECE = 0.03, 0.01, 0.008
"""Usual cost of a session, a drafted row and a token of a prompt, as shares of a mean forward of the target."""
_CALL_ROW = 0.1
"""Usual cost of a session in a forward of the draft."""
_READ = 0.01
"""Cost of a token of a prompt for the draft, as a share of a forward of the target, before one was read."""
_CALL = 0.15
"""Cost of a forward of the draft, as a share of the target's, before one was seen."""
_PRIMES = 8
"""Forwards that one counts for which was timed before any text: about as many as it takes to know the price."""
_LEARN = 1 / 16
"""Weight of the newest forward in what a session usually gets by one, or could."""
_PROBE = 16
"""Where drafts are alike, one forward in so many gets half of its rows, so that the price of a row stays known."""


@dataclass(slots=True)
class _Acceptance:
    """How the drafted tokens of a session fare."""

    right: float = _PRIOR[0] * _PRIOR[1]
    judged: float = _PRIOR[1]

    def observe(self, right: bool) -> None:
        self.right = _FADES * self.right + right
        self.judged = _FADES * self.judged + 1.0

    def fade(self) -> None:
        """Nothing of a draft was tried: little by little it is forgotten why, so that it is tried again some day."""
        self.right += _FORGIVES * (_PRIOR[0] * _PRIOR[1] - self.right)
        self.judged += _FORGIVES * (_PRIOR[1] - self.judged)

    @property
    def share(self) -> float:
        return self.right / self.judged


class DraftBudget:
    """Estimates of rows, of the draft's forwards and of each session's drafts.

    Attributes:
        cut: Drafted tokens of edges that the newest forward puts off.
    """

    def __init__(self, *, rationed: bool = True) -> None:
        """Make a budget; without rationing every row and forward of the draft is granted, whatever it costs."""
        self._rationed = rationed
        self._forward = LinearCost((_SESSION, _ROW, _PIECE))
        self._plain = MeasuredCost()
        self._call = LinearCost((_CALL_ROW,))
        self._acceptance: dict[SessionKey, _Acceptance] = {}
        self._got: dict[SessionKey, float] = {}
        self._offered: dict[SessionKey, float] = {}
        self._read: float | None = None
        self._alike = 0
        self._newest = (0, 0)
        self.cut = 0

    def prime(
        self,
        forwards: Sequence[tuple[int, int, float]],
        calls: Sequence[tuple[int, float]] = (),
        read: float | None = None,
    ) -> None:
        """Begin with what was timed before any text, see `Timings`; what forwards of texts take replaces it."""
        for sessions, rows, ms in forwards:
            for _ in range(_PRIMES):
                self.observe(sessions, rows, ms)
        for sessions, ms in calls:
            for _ in range(_PRIMES):
                self.observe_call(sessions, ms)
        self._read = read
        self._alike = 0

    def allocate(self, drafts: Mapping[SessionKey, int], sessions: int, reading: float = 0.0) -> Allocation:
        """Give the drafted tokens of edges their rows; the worker's own may follow.

        The forward is for so many sessions, as `fair_shares.weight` counts them, and reads prompts for so many ms.
        """
        plain = self._forward.predict((len(drafts), 0, 0)) if self._rationed else 0.0
        call = (self._call.predict((0,)), self._call.more(0)) if self._call.known else (_CALL * plain, 0.0)
        usual = {key: self._usually(key, drafted) for key, drafted in drafts.items()}
        read = _READ * plain if self._read is None else self._read
        ms = plain + reading if plain else 0.0
        made = Allocation(max(1, sessions), ms, self._forward.more(1), call, read, usual)
        made.grant(
            {key: (drafted, self.acceptance(key)) for key, drafted in drafts.items()}, self._most(drafts)
        )
        self.cut = sum(drafts.values()) - sum(made.granted.values())
        for key, granted in made.granted.items():
            if drafts[key] and not granted and key in self._acceptance:
                self._acceptance[key].fade()
        return made

    def takes(self, sessions: int) -> float:
        """Milliseconds of a forward that decides so many sessions without drafts; 0 before any was seen."""
        found = self._plain.predict(sessions, self._forward.more(0))
        return self._forward.predict((sessions, 0, 0)) if found is None else found

    def acceptance(self, key: SessionKey) -> float:
        """How likely a drafted token of a session's edge is right, if all before it are."""
        known = self._acceptance.get(key)
        return _PRIOR[0] if known is None else known.share

    def decided(self, key: SessionKey, tokens: int, accepted: int, *, wrong: bool) -> None:
        """A forward decided tokens of a session, some drafted by the edge; the next of its draft was wrong or not."""
        self._got[key] = _newer(self._got.get(key), float(tokens))
        if not accepted and not wrong:
            return
        known = self._acceptance.setdefault(key, _Acceptance())
        for _ in range(accepted):
            known.observe(right=True)
        if wrong:
            known.observe(right=False)

    def forget(self, key: SessionKey) -> None:
        """A session is over; it need not be known."""
        self._acceptance.pop(key, None)
        self._got.pop(key, None)
        self._offered.pop(key, None)

    def observe(self, sessions: int, rows: int, ms: float, reading: int = 0) -> None:
        """A forward of the target decided sessions, verified rows of theirs, and read tokens of prompts beside."""
        self._forward.observe((sessions, rows, reading), ms)
        if reading:
            self._plain.passed()
            return
        self._plain.observe(sessions, max(0.0, ms - rows * self._forward.more(1)))
        self._alike = self._alike + 1 if (sessions, rows) == self._newest else 0
        self._newest = sessions, rows

    def observe_call(self, sessions: int, ms: float) -> None:
        """A forward of the draft over so many sessions is done."""
        self._call.observe((sessions,), ms)

    def observe_reading(self, tokens: int, ms: float) -> None:
        """A forward of the draft is done that read so many tokens of prompts, and hardly anything else."""
        each = ms / tokens
        self._read = each if self._read is None else self._read + _LEARN * (each - self._read)

    def skip_call(self) -> None:
        """The draft could have been run, and was not worth it."""
        self._call.fade()

    def _usually(self, key: SessionKey, drafted: int) -> float:
        """Tokens of a session by a forward lately: what it got, or would have got with a row for all its drafts.

        Counted by what it got alone, sessions whose drafts come in every other forward would bear no rows of others
        in those between, nor others theirs: nobody would ever get more than one token.
        """
        confidence = self.acceptance(key)
        offered = sum(confidence**place for place in range(drafted + 1))
        self._offered[key] = _newer(self._offered.get(key), offered)
        return max(self._offered[key], self._got.get(key, 1.0))

    def _most(self, drafts: Mapping[SessionKey, int]) -> int:
        """Rows for drafted tokens of this forward: all, or half of them to learn their price."""
        wanted = sum(drafts.values())
        if self._alike < _PROBE or not self._rationed:
            return wanted
        self._alike = 0
        return wanted // 2


def _newer(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _LEARN * (value - mean)


def tokens_right(draft: Iterable[int], decided: Iterable[int]) -> int:
    """How many tokens of a draft the target decided alike, from the first on."""
    right = 0
    for drafted, token in zip(draft, decided, strict=False):
        if drafted != token:
            break
        right += 1
    return right
