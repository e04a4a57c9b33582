"""Speculative rounds without a network: drafter and engine in one process, many texts in step.

The rules are the protocol's with one batch in flight: the drafter drafts up to K tokens, fewer where the stop rule
ends the batch, the worker's engine decides, the text is rolled back to what it committed. Packing texts into shared
forwards changes none of them, because forwards are shape-invariant.

A draft changes no text, so the rounds of another one need no engine: what the target decides is in the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.interface import Drafter, DraftRequest, DraftToken
from flexspec_mq.protocol.edge.pending_draft import PendingDraft
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import Identity

EDGE = "bench"
VERSION = "v"
"""The one that is asked for."""


@dataclass(slots=True)
class Tally:
    """What rounds came to, in sums.

    Attributes:
        texts: written to their end.
        tokens: committed.
        rounds: verifications.
        empty: of these, those without a draft: the target was asked for one token.
        looked_up: drafted tokens that were found by lookup.
        looked_up_accepted: of these, accepted.
        judged: drafted tokens that the target's decision met: the accepted ones, and the first wrong one.
        expected: sum of their confidences; calibrated ones sum to the accepted.
        offered: by position in the draft, rounds whose draft was at least that long.
        reached: by position, rounds whose draft was accepted up to and including it.
    """

    texts: int = 0
    tokens: int = 0
    rounds: int = 0
    empty: int = 0
    looked_up: int = 0
    looked_up_accepted: int = 0
    judged: int = 0
    expected: float = 0.0
    offered: list[int] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)

    @property
    def drafted(self) -> int:
        """Drafted tokens that were sent."""
        return sum(self.offered)

    @property
    def accepted(self) -> int:
        """Of these, accepted."""
        return sum(self.reached)

    def count(self, draft: Sequence[DraftToken], decided: Sequence[int]) -> None:
        """Add one round."""
        self.tokens += len(decided)
        self.rounds += 1
        self.empty += not draft
        self._widen(len(draft))
        survives = True
        for position, proposal in enumerate(draft):
            found = proposal.origin == "lookup"
            self.judged += survives
            self.expected += survives * proposal.confidence
            survives = survives and position < len(decided) and proposal.token == decided[position]
            self.offered[position] += 1
            self.reached[position] += survives
            self.looked_up += found
            self.looked_up_accepted += found and survives

    def add(self, other: Tally) -> None:
        """Add the sums of another."""
        self.texts += other.texts
        self.tokens += other.tokens
        self.rounds += other.rounds
        self.empty += other.empty
        self.looked_up += other.looked_up
        self.looked_up_accepted += other.looked_up_accepted
        self.judged += other.judged
        self.expected += other.expected
        self._widen(len(other.offered))
        for position, (offered, reached) in enumerate(zip(other.offered, other.reached, strict=True)):
            self.offered[position] += offered
            self.reached[position] += reached

    @property
    def tokens_per_round(self) -> float:
        """Committed tokens per verification: accepted ones and one more, but for the ends of texts."""
        return self.tokens / max(1, self.rounds)

    @property
    def survival(self) -> list[float]:
        """S_k by position: share of the drafts that reached it which were accepted that far."""
        return [
            reached / max(1, offered) for reached, offered in zip(self.reached, self.offered, strict=True)
        ]

    def _widen(self, positions: int) -> None:
        missing = [0] * (positions - len(self.offered))
        self.offered += missing
        self.reached += missing


@dataclass(frozen=True, slots=True)
class Job:
    """One text to write.

    Attributes:
        name: what the tallies are kept by.
        prompt: token ids.
        identity: sampling parameters, seed, end-of-text ids and limit.
    """

    name: str
    prompt: tuple[int, ...]
    identity: Identity


@dataclass(slots=True)
class _Text:
    session: int
    later: list[Job]
    job: Job
    context: list[int]
    pending: PendingDraft = field(default_factory=PendingDraft)
    stopped: bool = False
    tally: Tally = field(default_factory=Tally)

    @property
    def written(self) -> int:
        return len(self.context) - len(self.job.prompt)

    @property
    def finished(self) -> bool:
        return self.written >= self.job.identity.limit or (
            self.written > 0 and self.context[-1] in self.job.identity.eos
        )

    @property
    def draft(self) -> tuple[int, ...]:
        return tuple(proposal.token for proposal in self.pending.tokens)

    def room(self, k: int) -> int:
        """How many tokens more are of use now."""
        draft, identity = self.draft, self.job.identity
        if self.stopped or (draft and draft[-1] in identity.eos):
            return 0
        return min(k, identity.limit - self.written - 1) - len(draft)

    def take(self, proposals: Sequence[DraftToken], plan: Plan) -> None:
        """As the protocol's machine does: one by one, and nothing more from the first that does not survive."""
        self.stopped = not proposals
        for proposal in proposals:
            if self.room(plan.draft_length) <= 0:
                return
            if not self.pending.add(proposal, plan.confidence_threshold):
                self.stopped = True
                return


class AnyRounds(ABC):
    """Writes texts, some at once.

    Args:
        drafter: the edge's.
        plan: K and the stop.
        price: what a forward of the draft costs, in tokens; see `DraftRequest`.
        at_once: texts that share the forwards.
    """

    def __init__(self, drafter: Drafter, plan: Plan, *, at_once: int, price: float = 0.0) -> None:
        self._drafter = drafter
        self._plan = plan
        self._price = price
        self._at_once = at_once

    def run(self, jobs: Sequence[Sequence[Job]], done: Callable[[Job, tuple[int, ...], Tally], None]) -> None:
        """Write all texts.

        Args:
            jobs: each a series of texts with the same prompt, which is read once for all of them.
            done: told of each finished text: its job, its tokens, its rounds.
        """
        waiting = [
            _Text(session, list(series[1:]), series[0], list(series[0].prompt))
            for session, series in enumerate(jobs)
        ]
        active: list[_Text] = []
        while waiting or active:
            while waiting and len(active) < self._at_once:
                active.append(waiting.pop(0))
            self._draft(active)
            self._verify(active)
            for text in [text for text in active if text.finished]:
                text.tally.texts = 1
                done(text.job, tuple(text.context[len(text.job.prompt) :]), text.tally)
                self._drafter.free(text.session)
                if text.later:
                    again = _Text(text.session, text.later[1:], text.later[0], list(text.later[0].prompt))
                    active[active.index(text)] = again
                else:
                    active.remove(text)
                    self._free(text)

    def _draft(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            text.pending.clear()
            text.stopped = not self._drafter.fits(text.context)
        while drafting := [text for text in texts if text.room(self._plan.draft_length) > 0]:
            wanted = [self._wanted(text) for text in drafting]
            for text, proposals in zip(drafting, self._drafter.draft(wanted), strict=True):
                if proposals is not None:
                    text.take(proposals, self._plan)
                    text.stopped |= not self._drafter.fits([*text.context, *text.draft])

    def _wanted(self, text: _Text) -> DraftRequest:
        return DraftRequest(
            session=text.session,
            context=[*text.context, *text.draft],
            identity=text.job.identity,
            committed=len(text.context),
            prompt_length=len(text.job.prompt),
            most=text.room(self._plan.draft_length),
            joint_acceptance=text.pending.joint_acceptance,
            confidence_threshold=self._plan.confidence_threshold,
            opportunity_cost=self._price,
        )

    @abstractmethod
    def _verify(self, texts: Sequence[_Text]) -> None:
        """Count a round of each, and commit what the target decides."""

    @abstractmethod
    def _free(self, text: _Text) -> None:
        """The series that it is the last of has ended."""


class Rounds(AnyRounds):
    """Rounds of a worker's engine; see `AnyRounds`.

    Args:
        engine: the worker's.
        drafter: the edge's.
        plan: K and the stop.
        price: what a forward of the draft costs, in tokens.
        at_once: texts that share the forwards.
    """

    def __init__(
        self, engine: EngineCore, drafter: Drafter, plan: Plan, *, at_once: int, price: float = 0.0
    ) -> None:
        super().__init__(drafter, plan, at_once=at_once, price=price)
        self._engine = engine

    def _free(self, text: _Text) -> None:
        self._engine.scheduler.free((EDGE, text.session))

    def _verify(self, texts: Sequence[_Text]) -> None:
        by_session = {text.session: text for text in texts}
        for text in texts:
            self._engine.scheduler.add(work_item(text.session, text.job, text.context, text.draft))
        while self._engine.scheduler.pending:
            for item, tokens in self._engine.step():
                text = by_session[item.key[1]]
                text.tally.count(tuple(text.pending.tokens), tokens)
                text.context += tokens


class ReplayedRounds(AnyRounds):
    """Rounds on texts that the target has written; see `AnyRounds`.

    Args:
        written: of each job, its tokens.
        drafter: the edge's.
        plan: K and the stop.
        price: what a forward of the draft costs, in tokens.
        at_once: texts that share the forwards.
    """

    def __init__(
        self,
        written: Mapping[Job, Sequence[int]],
        drafter: Drafter,
        plan: Plan,
        *,
        at_once: int,
        price: float = 0.0,
    ) -> None:
        super().__init__(drafter, plan, at_once=at_once, price=price)
        self._written = written

    def _free(self, text: _Text) -> None:
        pass

    def _verify(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            rest = self._written[text.job][text.written :]
            right = 0
            for token in text.draft:
                if right == len(rest) or token != rest[right]:
                    break
                right += 1
            decided = tuple(rest[: right + 1])
            text.tally.count(tuple(text.pending.tokens), decided)
            text.context += decided


def work_item(session: int, job: Job, context: Sequence[int], draft: Sequence[int]) -> WorkItem:
    """What the worker's protocol would hand to its engine."""
    return WorkItem(
        key=(EDGE, session),
        version=VERSION,
        start=len(context) - len(job.prompt),
        digest=0,
        context=tuple(context),
        prompt_length=len(job.prompt),
        draft=tuple(draft),
        identity=job.identity,
        seq=0,
        waiting_since=0.0,
    )
