"""The edge's text: committed tokens, the pending draft after them, and the one rule by which tokens commit.

Correctness rests here and on the tag of the worker's results; everything about drafts is efficiency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import log
from operator import attrgetter
from typing import Literal

from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.edge.types import DraftToken, SessionRequest
from flexspec_mq.protocol.effects import FinishReason, Origin
from schemas.messages import MAX_DRAFT_TOKENS, Verdict

_ORIGIN = attrgetter("origin")
_REPEATED = 16
"""Tokens that a text which goes in circles has said before: shorter runs repeat in tables and lists as well."""
_LOOKS_BACK = 512
"""Tokens among which they are looked for."""
_DOUBT = 8, log(0.3)
"""Tokens, and the mean logarithm of the likeliest one's probability below which a draft is unsure of itself. It ends 8
of twelve greedy answers that the draft which ships wrote alone, 10 at temperature 0.8, and 4 and 2 of those of a whole
model of 0.5 billion weights. With the rule of circles, three quarters of that draft's repeated 4-grams go."""


def repeats(tokens: Sequence[int]) -> bool:
    """Whether a text goes in circles: all of its last tokens stand in it before, in the same order."""
    last = tuple(tokens[-_REPEATED:])
    starts = range(len(tokens) - _REPEATED)
    return any(tokens[at] == last[0] and tuple(tokens[at : at + _REPEATED]) == last for at in starts)


class Agreement(Enum):
    """How a verdict relates to our chain."""

    EARLY = auto()
    """It begins beyond our chain: something before it is missing."""
    DIVERGED = auto()
    """Its tokens were decided on another prefix than ours."""
    AGREED = auto()


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that a verdict added.

    Attributes:
        start: position of the first new token.
        tokens: new tokens, maybe none.
        met: drafted tokens that they were compared with; all of them right, but for the last if `rolled_back`.
        rolled_back: the pending draft was wrong and is gone.
        reason: set when the text ends with the last of them.
        worker_right: tokens that the worker had drafted itself, and that were right.
        worker_judged: tokens of its drafts that were compared.
        in_vain: drafted tokens of both behind a wrong one, which were not.
        forced: tokens that the grammar left no choice about, beside those that were drafted here.
    """

    start: int
    tokens: tuple[int, ...]
    met: list[DraftToken]
    rolled_back: bool
    reason: FinishReason | None
    worker_right: int = 0
    worker_judged: int = 0
    forced: int = 0
    in_vain: int = 0

    def origins(self, *, told: bool) -> tuple[Origin | Literal["worker", "cloud"] | None, ...]:
        """Per token, who had drafted it; None where the target wrote it.

        Args:
            told: the verdict tells which tokens the worker had drafted, which come before the last one.
        """
        right = self.met[:-1] if self.rolled_back else self.met
        others = len(self.tokens) - len(right)
        if not told:
            return (*map(_ORIGIN, right), *("cloud",) * others)
        forced = min(self.forced, others)
        drafted = max(0, min(self.worker_right, others - forced - 1))
        target = max(0, others - forced - drafted - 1)
        last = (None,) * (others - target - drafted - forced)
        origins = (
            *map(_ORIGIN, right),
            *(None,) * target,
            *("worker",) * drafted,
            *last,
            *("grammar",) * forced,
        )
        return origins[: len(self.tokens)]


class PendingDraft:
    """Drafted tokens that no verdict has met yet. The stop rule lives here, so that all who draft follow the same one.

    Attributes:
        tokens: ids that wait. To read.
        joint_acceptance: product of their confidences, the probability that the target takes all of them; 1 without
            any. A token that is added is of use only if it does.
    """

    __slots__ = ("joint_acceptance", "tokens")

    def __init__(self) -> None:
        self.tokens: list[DraftToken] = []
        self.joint_acceptance = 1.0

    def add(self, token: DraftToken, threshold: float) -> bool:
        """Go on with this token, if all of them are then taken with probability `threshold` at least."""
        together = self.joint_acceptance * token.confidence
        if threshold > 0.0 and together < threshold:
            return False
        self.tokens.append(token)
        self.joint_acceptance = together
        return True

    def meet(self, decided: Sequence[int]) -> tuple[list[DraftToken], bool]:
        """The target wrote these tokens next.

        Returns:
            The drafted tokens that they met, and whether the last of these was wrong. A wrong one takes all after it
            with it.
        """
        right, most = 0, min(len(self.tokens), len(decided))
        while right < most and self.tokens[right].token == decided[right]:
            right += 1
        wrong = right < most
        met = self.tokens[: right + wrong]
        self.tokens = [] if wrong else self.tokens[right:]
        self.joint_acceptance = 1.0
        for token in self.tokens:
            self.joint_acceptance *= token.confidence
        return met, wrong

    def clear(self) -> None:
        """Forget all."""
        self.tokens = []
        self.joint_acceptance = 1.0


class SessionText:
    """A chain: the first `committed` tokens are the text's, the rest is the pending draft.

    Args:
        request: the generation.

    Attributes:
        chain: committed tokens, then those of the pending draft. This class alone changes it, and all else here.
        pending: knowledge of the drafted tokens beyond `committed`.
        committed: number of committed tokens.
        tip: length of the chain.
        digest: digest of the whole chain.
        limit: tokens of the whole text at most.
        capped: drafting on is useless: the draft ends the text, or the target decides the last token.
        reason: why the text ended; None while it goes on.
    """

    def __init__(self, request: SessionRequest) -> None:
        identity = request.identity
        self._finish_at = request.finish_at
        self._eos = frozenset() if identity.ignore_eos else frozenset(identity.eos)
        self.limit = identity.limit
        self.chain = chains.chain_for(identity, request.version, request.prompt)
        self.pending = PendingDraft()
        self.committed = self.tip = 0
        self._forced: set[int] = set()  # positions of drafted tokens that the grammar forces
        self.reason: FinishReason | None = None
        self._add(request.committed)

    def draft(self, token: DraftToken, threshold: float) -> bool:
        """Append a drafted token, if the whole draft is then taken with probability `threshold` at least."""
        if not self.pending.add(token, threshold):
            return False
        if token.origin == "grammar":
            self._forced.add(self.tip)
        elif self._forced:
            self._forced.discard(self.tip)
        self.digest = self.chain.append(token.token)
        self.tip += 1
        self.capped = self.tip >= self.limit - 1 or token.token in self._eos
        return True

    @property
    def loops(self) -> bool:
        """Whether the chain goes in circles, as small models do which write alone."""
        return repeats(self.chain.tokens(max(0, self.tip - _LOOKS_BACK), self.tip))

    @property
    def doubtful(self) -> bool:
        """Whether the draft was unsure of itself in the last tokens of the pending draft."""
        count, least = _DOUBT
        last = self.pending.tokens[-count:]
        return len(last) == count and sum(log(max(each.sure, 1e-9)) for each in last) < count * least

    def free(self, start: int, end: int) -> int:
        """Number of drafted tokens at positions `start` to `end - 1` that no grammar forces."""
        if not self._forced:
            return max(0, end - start)
        return sum(position not in self._forced for position in range(start, end))

    def reach(self, start: int, count: int) -> int:
        """Position after the `count`-th drafted token from `start` on that no grammar forces, in a message's bound."""
        end = start + count
        if self._forced:
            most = min(self.tip, start + MAX_DRAFT_TOKENS)
            free = [place for place in range(start, most) if place not in self._forced][:count]
            end = free[-1] + 1 if free else start
        return end

    def judge(self, verdict: Verdict) -> Agreement:
        """Compare the verdict's end digest with our own committed chain, extended by its new tokens."""
        start, known = verdict.start, self.committed
        if start > known:
            return Agreement.EARLY
        end = start + len(verdict.tokens)
        if end <= known:
            ours = self.chain.digest(end)
        else:
            ours = chains.after_all(self.chain.digest(known), verdict.tokens[known - start :])
        return Agreement.AGREED if ours == verdict.digest else Agreement.DIVERGED

    def commit(self, verdict: Verdict) -> Committed:
        """Commit the new tokens of a verdict that agrees, up to where the text ends."""
        start = self.committed
        tokens = self._add(verdict.tokens[start - verdict.start :])
        pending = self.pending.tokens
        met, wrong = self.pending.meet(tokens)
        in_vain = len(pending) - len(met) if wrong else 0
        if self.reason is not None:
            self.pending.clear()
        right = judged = 0
        if verdict.drafted and tokens:
            # One token of a forward is the target's own, and those before the worker's are ours. Behind a wrong one of
            # ours none of the worker's was compared.
            ours = len(met) - wrong
            right = min(verdict.drafted, max(0, len(verdict.tokens) - verdict.forced - 1 - ours))
            judged = min(verdict.drafted, right + (not wrong))
            in_vain += verdict.drafted - judged
        forced = min(verdict.forced, len(tokens) - (len(met) - wrong))
        return Committed(start, tokens, met, wrong, self.reason, right, judged, forced, in_vain)

    def _add(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Commit tokens in the place of what was drafted, up to where the text ends; return those that count."""
        start, chain = self.committed, self.chain
        differs = chain.mismatch(start, tokens)
        if differs is not None:
            chain.cut(differs)
            self.tip = differs
        chain.extend(tokens[self.tip - start :])
        self.tip = max(self.tip, start + len(tokens))
        tokens, self.reason = self._until_end(start, tokens)
        self.committed += len(tokens)
        if self.reason is not None:
            chain.cut(self.committed)
            self.tip = self.committed
        self.digest = chain.digest(self.tip)
        self.capped = self.tip >= self.limit - 1 or (
            self.tip > self.committed and chain[self.tip - 1] in self._eos
        )
        return tokens

    def _until_end(self, start: int, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        """The tokens up to where the text ends, and why it does.

        The finish is a pure function of the committed tokens, looked for after each of them, so it does not
        depend on how verdicts grouped them.
        """
        for count, token in enumerate(tokens, 1):
            reason = None
            if token in self._eos:
                reason = FinishReason.EOS
            elif (
                self._finish_at is not None
                and self._finish_at(self.chain.view((), start + count)) is not None
            ):
                reason = FinishReason.STOP
            elif start + count >= self.limit:
                reason = FinishReason.LENGTH
            if reason is not None:
                return tokens[:count], reason
        return tokens, None
