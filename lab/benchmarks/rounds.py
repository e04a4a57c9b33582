"""Speculative rounds without a network: drafter and engine in one process, many texts in step.

The rules are the protocol's with one batch in flight: the drafter drafts up to K tokens, the worker's engine decides,
the text is rolled back to what it committed. Packing texts into shared forwards changes none of them, because forwards
are shape-invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.drafting.interface import Drafter, DraftRequest, DraftToken
from flexspec_mq.protocol.worker.types import WorkItem
from schemas.messages import Identity

EDGE = "bench"
VERSION = "v"
"""The one that is asked for."""


@dataclass(slots=True)
class RoundTally:
    """Sums over rounds.

    Attributes:
        texts: written to their end.
        tokens: committed.
        rounds: verifications.
        offered: rounds whose draft was at least that long, by position in the draft.
        reached: rounds whose draft was accepted up to and including it, by position.
    """

    texts: int = 0
    tokens: int = 0
    rounds: int = 0
    offered: list[int] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)

    @property
    def drafted(self) -> int:
        """Drafted tokens that were sent."""
        return sum(self.offered)

    @property
    def accepted(self) -> int:
        """Drafted tokens that were accepted."""
        return sum(self.reached)

    def count(self, draft: Sequence[DraftToken], decided: Sequence[int]) -> None:
        """Add one round."""
        self.tokens += len(decided)
        self.rounds += 1
        self._widen(len(draft))
        survives = True
        for position, proposal in enumerate(draft):
            survives = survives and position < len(decided) and proposal.token == decided[position]
            self.offered[position] += 1
            self.reached[position] += survives

    def add(self, other: RoundTally) -> None:
        """Add the sums of another."""
        self.texts += other.texts
        self.tokens += other.tokens
        self.rounds += other.rounds
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
    """A text to write.

    Attributes:
        name: key of the tallies.
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
    draft: list[DraftToken] = field(default_factory=list)
    stopped: bool = False
    tally: RoundTally = field(default_factory=RoundTally)

    @property
    def written(self) -> int:
        return len(self.context) - len(self.job.prompt)

    @property
    def finished(self) -> bool:
        return self.written >= self.job.identity.limit or (
            self.written > 0 and self.context[-1] in self.job.identity.eos
        )

    @property
    def drafted(self) -> list[int]:
        return [proposal.token for proposal in self.draft]

    def room(self, k: int) -> int:
        """Drafted tokens that are still of use."""
        identity = self.job.identity
        if self.stopped or (self.draft and self.draft[-1].token in identity.eos):
            return 0
        return min(k, identity.limit - self.written - 1) - len(self.draft)


class Rounds:
    """Rounds of a worker's engine and a device's draft, some texts at once.

    Args:
        engine: the worker's.
        drafter: the device's.
        k: tokens drafted per round at most.
        at_once: texts that share the forwards.
    """

    def __init__(self, engine: ModelEngine, drafter: Drafter, k: int, *, at_once: int) -> None:
        self._engine = engine
        self._drafter = drafter
        self._k = k
        self._at_once = at_once

    def run(
        self, jobs: Sequence[Sequence[Job]], done: Callable[[Job, tuple[int, ...], RoundTally], None]
    ) -> None:
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
                    self._engine.scheduler.free((EDGE, text.session))

    def _draft(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            text.draft.clear()
            text.stopped = not self._drafter.fits(text.context)
        while drafting := [text for text in texts if text.room(self._k) > 0]:
            wanted = [self._request(text) for text in drafting]
            for text, proposals in zip(drafting, self._drafter.draft(wanted), strict=True):
                if proposals is not None:
                    text.stopped = not proposals
                    text.draft += proposals[: text.room(self._k)]
                    text.stopped |= not self._drafter.fits([*text.context, *text.drafted])

    def _request(self, text: _Text) -> DraftRequest:
        return DraftRequest(
            session=text.session,
            context=[*text.context, *text.drafted],
            identity=text.job.identity,
            committed=len(text.context),
            prompt_length=len(text.job.prompt),
            most=text.room(self._k),
        )

    def _verify(self, texts: Sequence[_Text]) -> None:
        by_session = {text.session: text for text in texts}
        for text in texts:
            self._engine.scheduler.add(work_item(text.session, text.job, text.context, text.drafted))
        while self._engine.scheduler.pending:
            for item, tokens in self._engine.step().decided:
                text = by_session[item.key[1]]
                text.tally.count(text.draft, tokens)
                text.context += tokens


def work_item(session: int, job: Job, context: Sequence[int], draft: Sequence[int]) -> WorkItem:
    """Work as the worker's protocol would hand it to its engine."""
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
