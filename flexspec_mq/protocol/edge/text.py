"""The edge's text: committed tokens, the drafted branch after them, and the one rule by which tokens commit.

Correctness rests here and on the tag of the worker's results; everything about drafts is efficiency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.edge.pending_draft import PendingDraft
from flexspec_mq.protocol.edge.types import DraftToken, EdgeCounters, SessionRequest
from flexspec_mq.protocol.effects import FinishReason, Origin
from schemas.messages import Verdict


class Agreement(Enum):
    """How a verdict relates to our chain."""

    EARLY = auto()
    """It begins beyond our chain: something before it is missing."""
    DIVERGED = auto()
    """Its tokens were decided on another prefix than ours."""
    AGREED = auto()


@dataclass(frozen=True, slots=True)
class Committed:
    """What a verdict added.

    Attributes:
        start: position of the first new token.
        tokens: new tokens, maybe none.
        origins: per token, who had drafted it; None where the target wrote it.
        rolled_back: the drafted branch was wrong and is gone.
        reason: set when the text ends with the last of them.
    """

    start: int
    tokens: tuple[int, ...]
    origins: tuple[Origin | None, ...]
    rolled_back: bool
    reason: FinishReason | None


class EdgeText:
    """One chain: the first `have` tokens are committed, the rest is the drafted branch.

    Args:
        request: the generation.
        counters: of the session; drafted, judged, accepted, withheld and stale are counted here.

    Attributes:
        chain: committed tokens, then those of the branch.
        branch: what is known of the drafted tokens beyond `have`.
        have: committed tokens.
        reason: why the text ended; None while it goes on.
    """

    def __init__(self, request: SessionRequest, counters: EdgeCounters) -> None:
        identity = request.identity
        self._request = request
        self._counters = counters
        self._eos = frozenset() if identity.ignore_eos else frozenset(identity.eos)
        self.limit = identity.limit
        self.chain = chains.chain_for(identity, request.version, request.prompt)
        self.branch = PendingDraft()
        self.have = 0
        self.reason: FinishReason | None = None
        for token in request.committed:
            if self._add(token):
                break

    @property
    def committed(self) -> tuple[int, ...]:
        """Copy of the committed tokens."""
        return self.chain.tokens(0, self.have)

    @property
    def context(self) -> Sequence[int]:
        """View of prompt, committed tokens and branch."""
        return self.chain.view(self._request.prompt)

    @property
    def capped(self) -> bool:
        """Whether drafting on is useless: the branch ends the text, or the target decides the last token."""
        tip = len(self.chain)
        return tip >= self.limit - 1 or (tip > self.have and self.chain[tip - 1] in self._eos)

    def draft(self, guess: DraftToken, stop: float) -> bool:
        """Append a drafted token at the chain's tip, if it survives with probability `stop` at least."""
        if not self.branch.admits(guess, stop):
            self._counters.withheld += 1
            return False
        self.chain.append(guess.token)
        self.branch.add(guess)
        self._counters.drafted += 1
        return True

    def at_tip(self, start: int, digest: int) -> bool:
        """Whether (start, digest) names the whole chain."""
        return start == len(self.chain) and digest == self.chain.digest(start)

    def judge(self, verdict: Verdict) -> Agreement:
        """Compare the verdict's end digest with our own committed chain, extended by its new tokens."""
        if verdict.start > self.have:
            return Agreement.EARLY
        end = verdict.start + len(verdict.tokens)
        if end <= self.have:
            ours = self.chain.digest(end)
        else:
            ours = chains.after_all(self.chain.digest(self.have), self._new(verdict))
        return Agreement.AGREED if ours == verdict.digest else Agreement.DIVERGED

    def commit(self, verdict: Verdict) -> Committed:
        """Commit the new tokens of a verdict that agrees, up to where the text ends."""
        start = self.have
        origins: list[Origin | None] = []
        rolled_back = False
        for token in self._new(verdict):
            guess = self.branch.decided(token)
            right = guess is not None and guess.token == token
            rolled_back |= guess is not None and not right
            if guess is not None:
                self._judge(guess, right=right)
            origins.append(guess.origin if guess is not None and right else None)
            if self._add(token):
                break
        return Committed(start, self.chain.tokens(start, self.have), tuple(origins), rolled_back, self.reason)

    def _judge(self, guess: DraftToken, *, right: bool) -> None:
        counters, looked_up = self._counters, guess.origin == "lookup"
        counters.judged += 1
        counters.accepted += right
        counters.looked_up += looked_up
        counters.looked_up_accepted += looked_up and right

    def _new(self, verdict: Verdict) -> tuple[int, ...]:
        return verdict.tokens[self.have - verdict.start :]

    def _add(self, token: int) -> bool:
        """Commit one token; return whether the text ends with it.

        The finish is a pure function of the committed tokens, looked for after each of them, so it does not
        depend on how verdicts grouped them.
        """
        if self.have == len(self.chain) or self.chain[self.have] != token:
            self.chain.cut(self.have)
            self.chain.append(token)
        self.have += 1
        self.reason = self._ends(token)
        if self.reason:
            self.chain.cut(self.have)
            self.branch.clear()
        return self.reason is not None

    def _ends(self, token: int) -> FinishReason | None:
        if token in self._eos:
            return FinishReason.EOS
        finish_at = self._request.finish_at
        if finish_at is not None and finish_at(self.chain.view((), self.have)) is not None:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.have >= self.limit else None
