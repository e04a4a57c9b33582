"""A drafter that needs no model: it proposes what followed the last time that the text looked as it does now.

A suffix lookup in the session's own tokens, and behind them in remembered answers of its version, by a hash chain, as
in LZ77 compressors: each pair of tokens leads to its last occurrence, each occurrence to the one before. The longest
match wins, the newest of equals (on target-written text that beat the most frequent one). A step costs some ten
microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST = 32
"""Tokens of a match that are told apart; longer ones count as this."""
_TRIES = 24
"""Occurrences of a pair that are looked at, newest first."""
_NONE = -1
_END = -1
"""Stands behind each remembered answer."""

_Place = tuple[list[int], int]
"""Tokens, and a position in them or, of the session's own, in the pending draft behind them."""


class Support(Enum):
    """Support of a found token by other occurrences of the text's last two tokens."""

    SINGLE = "single"
    """Only the last token has occurred before."""
    ALONE = "alone"
    """There is no other occurrence."""
    ALL = "all"
    """All were followed by the same token."""
    MOST = "most"
    """At least half of them, the one found included, were."""
    FEW = "few"
    """Fewer were."""


@dataclass(frozen=True, slots=True)
class Match:
    """Token that followed the text's end the last time.

    Attributes:
        token: id of the token.
        length: tokens in common before it, 1 to `LONGEST`.
        support: how far other occurrences agree.
        remembered: the token stands in an earlier answer, not in this text.
    """

    token: int
    length: int
    support: Support
    remembered: bool = False


class Lookup:
    """The tokens of one session that are decided for good, or earlier answers, and where to find them.

    Memory grows by some hundred bytes a token, up to `most` tokens; what comes later is matched, but not found.

    Args:
        most: tokens that are indexed.
        older: earlier answers, in which is found what the text does not have.
    """

    def __init__(self, most: int = 32_768, older: Lookup | None = None) -> None:
        self._most = most
        self._older = older
        self._tokens: list[int] = []
        # Places are positions after an occurrence; the lists lead from each to the one before it.
        self._singles: dict[int, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._single_before: list[int] = [_NONE]
        self._pair_before: list[int] = [_NONE]

    def __len__(self) -> int:
        """Tokens held."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on with these, for good."""
        for token in tokens:
            before = self._tokens[-1] if self._tokens else None
            self._tokens.append(token)
            place = len(self._tokens)
            if place > self._most:
                continue
            self._single_before.append(self._singles.get(token, _NONE))
            self._singles[token] = place
            if before is None:
                self._pair_before.append(_NONE)
                continue
            self._pair_before.append(self._pairs.get((before, token), _NONE))
            self._pairs[before, token] = place

    def add(self, answer: Sequence[int]) -> None:
        """Hold an answer that is over: nothing is found behind its end."""
        self.extend(answer[:-1])
        self._tokens += (*answer[-1:], _END)
        self._single_before += (_NONE,) * (len(self._tokens) + 1 - len(self._single_before))
        self._pair_before += (_NONE,) * (len(self._tokens) + 1 - len(self._pair_before))

    def find(self, pending: Sequence[int] = ()) -> Match | None:
        """Token behind the longest earlier occurrence of the end of text and pending draft; None if there is none.

        Args:
            pending: tokens that follow the text, but may go again. No occurrence is looked for that ends in them.
        """
        tail = [*self._tokens[-LONGEST:], *pending][-LONGEST:]
        end, older = len(self._tokens) + len(pending), self._older
        places = self._places(tail, end)
        if older is not None:
            places += older.remembered(tail, _TRIES - len(places))
        if not places:
            return self._single(tail, end, pending)
        best, most = places[0], 1
        for found in places:
            text, place = found
            if place > most and text[place - most - 1] == tail[-most - 1]:  # it may be longer
                length = _common(text, place, tail)
                if length > most:
                    best, most = found, length
                    if length == len(tail):
                        break
        token = _after(*best, pending)
        return Match(token, most, _support(token, places, pending), best[0] is not self._tokens)

    def remembered(self, tail: list[int], most: int) -> list[_Place]:
        """Places behind occurrences of the last three tokens of `tail`, among `most` of the last two."""
        places: list[_Place] = []
        place = self._pairs.get((tail[-2], tail[-1]), _NONE) if len(tail) > 2 else _NONE
        while place != _NONE and most:
            if self._tokens[place - 3] == tail[-3]:
                places.append((self._tokens, place))
            place = self._pair_before[place]
            most -= 1
        return places

    def _places(self, tail: list[int], end: int) -> list[_Place]:
        """Places behind occurrences of the last two tokens of `tail` but for that at `end`, the newest first."""
        if len(tail) < 2:
            return []
        places: list[_Place] = []
        place = self._pairs.get((tail[-2], tail[-1]), _NONE)
        while place != _NONE and len(places) < _TRIES:
            if place < end:  # else it is the text's end itself
                places.append((self._tokens, place))
            place = self._pair_before[place]
        return places

    def _single(self, tail: list[int], end: int, pending: Sequence[int]) -> Match | None:
        """Token behind the last one's newest occurrence in the text."""
        if not tail:
            return None
        place = self._singles.get(tail[-1], _NONE)
        if place == end:
            place = self._single_before[place]
        return None if place == _NONE else Match(_after(self._tokens, place, pending), 1, Support.SINGLE)


def _common(text: list[int], place: int, tail: list[int]) -> int:
    """Tokens before a place that are those at the end of `tail`, two at least."""
    length = 2
    while length < len(tail) and place > length and text[place - length - 1] == tail[-length - 1]:
        length += 1
    return length


def _after(text: list[int], place: int, pending: Sequence[int]) -> int:
    return text[place] if place < len(text) else pending[place - len(text)]


def _support(token: int, places: Sequence[_Place], pending: Sequence[int]) -> Support:
    if len(places) == 1:
        return Support.ALONE
    votes = sum(_after(*place, pending) == token for place in places)
    if votes == len(places):
        return Support.ALL
    return Support.MOST if 2 * votes >= len(places) else Support.FEW


LEAST = 0.05
"""Joint acceptance below which a token is not worth its bytes and its place in the target's forward, by any plan."""
PRIOR: dict[Support, tuple[float, float, float]] = {
    Support.SINGLE: (-1.061, 0.0, -0.380),
    Support.ALONE: (-0.364, 0.905, -0.584),
    Support.ALL: (0.348, 1.370, -0.533),
    Support.MOST: (-1.390, 1.221, -0.376),
    Support.FEW: (-1.872, 1.054, -0.398),
}
"""Log-odds: a constant, per natural logarithm of the length, per unit of temperature."""
STRENGTH = 16.0
"""Outcomes that the prior of a bin counts as. On an eighth of the rows that `prior` tells of, the mean log loss was
0.485 with the prior alone, and 0.486, 0.480, 0.478, 0.478 and 0.480 with a record against a strength of 4, 8, 16, 32
and 64."""
_LASTING = 1024
"""Outcomes after which a bin counts those before half."""


def prior(match: Match, temperature: float) -> float:
    """Probability that a token found is the target's, before anything is known of the session.

    The prior is a logistic regression in the logarithm of the match's length and in the temperature, one for each
    `Support`. A session's own record then moves it, bin by bin, as a Beta posterior does: some texts repeat
    themselves, some only seem to.

    These numbers are of SmolLM2-135M-Instruct, from every fourth row of 6,780 (249,000 tokens at temperatures 0, 0.7
    and 1). Other models repeat themselves differently; the session's record makes up for it.
    """
    constant, by_length, by_temperature = PRIOR[match.support]
    score = constant + by_length * math.log(match.length) + by_temperature * temperature
    return 1.0 / (1.0 + math.exp(-score))


Bins = dict[tuple[Support, int], tuple[int, int]]
"""How often the target took what was found, of how many times; by support and length, see `_bin`."""


class LookupRecord:
    """Record of a session's lookups.

    Args:
        temperature: the session's.
        bins: record that goes on in later sessions; None begins one.
    """

    __slots__ = ("_bins", "_temperature")

    def __init__(self, temperature: float, bins: Bins | None = None) -> None:
        self._temperature = temperature
        self._bins: Bins = {} if bins is None else bins

    def confidence(self, match: Match) -> float:
        """Probability, 0 to 1, that the target takes the token found."""
        right, all_ = self._bins.get(_bin(match), (0, 0))
        return (STRENGTH * prior(match, self._temperature) + right) / (STRENGTH + all_)

    def count(self, match: Match, *, right: bool) -> None:
        """The target has decided where this was found."""
        before, all_ = self._bins.get(_bin(match), (0, 0))
        if all_ >= _LASTING:
            before, all_ = before // 2, all_ // 2
        self._bins[_bin(match)] = (before + right, all_ + 1)


def _bin(match: Match) -> tuple[Support, int]:
    """Lengths 1, 2-3, 4-7, 8-15, 16-31 and above are counted apart."""
    return match.support, match.length.bit_length()


class SessionLookup:
    """A session's decided tokens, and how its lookups have fared.

    Text that its user predicts stands before them, after the end of the prompt, as it would in an earlier text. So the
    first predicted token is found when the text begins.

    Args:
        request: the first that is wanted of it.
    """

    def __init__(self, request: DraftRequest) -> None:
        temperature, known = request.identity.temperature, request.answers() if request.answers else None
        self._lookup = Lookup(older=known and known.lookup)
        self._record = LookupRecord(temperature)
        self._remembered = LookupRecord(temperature, known and known.bins)
        self._prompt = request.prompt_length
        if request.prediction:
            self._lookup.extend(request.context[max(0, self._prompt - LONGEST) : self._prompt])
            self._lookup.extend(request.prediction)
        self._before = len(self._lookup)

    def follow(self, request: DraftRequest) -> tuple[int, ...]:
        """Learn what has been decided since; returns the pending draft.

        Repetitions in the prompt tell nothing of the target, so only generated tokens are counted.
        """
        context, committed = request.context, request.committed
        for place in range(len(self._lookup) - self._before, committed):
            token = context[place]
            if place >= self._prompt and (match := self._lookup.find()) is not None:
                self._record_of(match).count(match, right=match.token == token)
            self._lookup.extend((token,))
        return tuple(context[committed:])

    def propose(self, pending: Sequence[int]) -> DraftToken | None:
        """The next token, if the end of text and pending draft has occurred before."""
        match = self._lookup.find(pending)
        if match is None:
            return None
        return DraftToken(match.token, self._record_of(match).confidence(match), "lookup")

    def _record_of(self, match: Match) -> LookupRecord:
        return self._remembered if match.remembered else self._record

    def run(self, request: DraftRequest, pending: Sequence[int]) -> list[DraftToken]:
        """Tokens one after the other, as long as they are wanted and survive."""
        drafted: list[DraftToken] = []
        path = list(pending)
        together, least = request.joint_acceptance, max(request.confidence_threshold, LEAST)
        while len(drafted) < request.most and (proposal := self.propose(path)) is not None:
            together *= proposal.confidence
            if together < least:
                break
            drafted.append(proposal)
            path.append(proposal.token)
        return drafted


class PromptLookupDrafter:
    """A `Drafter` over the sessions' own tokens. It gives whole batches at a time, and nothing where nothing repeats.

    Args:
        max_context: tokens of a context beyond which it is silent; bounds its memory.
    """

    def __init__(self, *, max_context: int) -> None:
        self._max_context = max_context
        self._sessions: dict[int, SessionLookup] = {}

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._max_context

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Look up how each session's text goes on; this never wants to be asked again."""
        return list(self.lookups(wanted))

    def unread(self, request: DraftRequest) -> int:  # noqa: ARG002
        """0: there is no model."""
        return 0

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """All that it drafts."""
        return [
            session.run(request, pending)
            for request in wanted
            for session, pending in (self.session(request),)
        ]

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        self._sessions.pop(session, None)

    def session(self, request: DraftRequest) -> tuple[SessionLookup, tuple[int, ...]]:
        """The session that is wanted, with all that is decided; and the pending draft."""
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = SessionLookup(request)
        return session, session.follow(request)
