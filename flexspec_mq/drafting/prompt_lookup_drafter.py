"""A drafter that needs no model: it proposes what followed the last time that the text looked as it does now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.drafting.prompt_lookup import LONGEST, Lookup
from flexspec_mq.drafting.prompt_lookup_confidence import LookupRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST = 0.05
"""Joint acceptance below which a token is not worth its bytes and its place in the target's forward, by any plan."""


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
