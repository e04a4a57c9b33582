"""A drafter that needs no model: it proposes what followed the last time that the text looked as it does now."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.drafting.prompt_lookup import LONGEST, Found, Lookup, Support

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def prior(found: Found, temperature: float) -> float:
    """Probability that a token found is the target's, before anything is known of the session.

    The prior is a logistic regression in the logarithm of the match's length and in the temperature, one for each
    `Support`. A session's own record then moves it, bin by bin, as a Beta posterior does: some texts repeat
    themselves, some only seem to.

    These numbers are of SmolLM2-135M-Instruct, from every fourth row of 6,780 (249,000 tokens at temperatures 0, 0.7
    and 1). Other models repeat themselves differently; the session's record makes up for it.
    """
    constant, by_length, by_temperature = PRIOR[found.support]
    score = constant + by_length * math.log(found.length) + by_temperature * temperature
    return 1.0 / (1.0 + math.exp(-score))


class LookupRecord:
    """Record of a session's lookups.

    Args:
        temperature: the session's.
    """

    __slots__ = ("_bins", "_temperature")

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._bins: dict[tuple[Support, int], tuple[int, int]] = {}

    def confidence(self, found: Found) -> float:
        """Probability, 0 to 1, that the target takes the token found."""
        right, all_ = self._bins.get(_bin(found), (0, 0))
        return (STRENGTH * prior(found, self._temperature) + right) / (STRENGTH + all_)

    def count(self, found: Found, *, right: bool) -> None:
        """The target has decided where this was found."""
        before, all_ = self._bins.get(_bin(found), (0, 0))
        self._bins[_bin(found)] = (before + right, all_ + 1)


def _bin(found: Found) -> tuple[Support, int]:
    """Lengths 1, 2-3, 4-7, 8-15, 16-31 and above are counted apart."""
    return found.support, found.length.bit_length()


class SessionLookup:
    """A session's decided tokens, and how its lookups have fared.

    Text that its user predicts stands before them, after the end of the prompt, as it would in an earlier text. So the
    first predicted token is found when the text begins.

    Args:
        one: the first that is wanted of it.
    """

    def __init__(self, one: DraftRequest) -> None:
        self._lookup = Lookup()
        self._record = LookupRecord(one.identity.temperature)
        self._prompt = one.prompt_length
        if one.prediction:
            self._lookup.extend(one.context[max(0, self._prompt - LONGEST) : self._prompt])
            self._lookup.extend(one.prediction)
        self._before = len(self._lookup)

    def follow(self, one: DraftRequest) -> tuple[int, ...]:
        """Learn what has been decided since; returns the pending draft.

        Repetitions in the prompt tell nothing of the target, so only generated tokens are counted.
        """
        context, committed = one.context, one.committed
        for place in range(len(self._lookup) - self._before, committed):
            token = context[place]
            if place >= self._prompt and (found := self._lookup.find()) is not None:
                self._record.count(found, right=found.token == token)
            self._lookup.extend((token,))
        return tuple(context[committed:])

    def propose(self, pending: Sequence[int]) -> DraftToken | None:
        """The next token, if the end of text and pending draft has occurred before."""
        found = self._lookup.find(pending)
        if found is None:
            return None
        return DraftToken(found.token, self._record.confidence(found), "lookup")

    def run(self, one: DraftRequest, pending: Sequence[int]) -> list[DraftToken]:
        """Tokens one after the other, as long as they are wanted and survive."""
        found: list[DraftToken] = []
        path = list(pending)
        together, least = one.joint_acceptance, max(one.confidence_threshold, LEAST)
        while len(found) < one.most and (proposal := self.propose(path)) is not None:
            together *= proposal.confidence
            if together < least:
                break
            found.append(proposal)
            path.append(proposal.token)
        return found


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

    def unread(self, one: DraftRequest) -> int:  # noqa: ARG002
        """0: there is no model."""
        return 0

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """All that it drafts."""
        return [session.run(one, pending) for one in wanted for session, pending in (self.session(one),)]

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        self._sessions.pop(session, None)

    def session(self, one: DraftRequest) -> tuple[SessionLookup, tuple[int, ...]]:
        """The session that is wanted, with all that is decided; and the pending draft."""
        session = self._sessions.get(one.session)
        if session is None:
            session = self._sessions[one.session] = SessionLookup(one)
        return session, session.follow(one)
