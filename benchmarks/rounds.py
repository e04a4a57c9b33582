"""Speculative rounds without a network: drafter and engine in one process, many texts in step.

The rules are the protocol's with one batch in flight: the drafter drafts up to K tokens, the worker's engine
decides, the text is rolled back to what it committed. Packing texts into shared forwards changes none of them,
because forwards are shape-invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloud_worker.batcher import Batcher
from cloud_worker.engine import Engine, sampling
from edge_node.drafter import ModelDrafter, Wanted
from flexspec_mq.protocol.worker_types import WorkItem
from schemas.messages import Identity

EDGE = "bench"


@dataclass(slots=True)
class Tally:
    """What rounds came to, in sums.

    Attributes:
        texts: written to their end.
        tokens: committed.
        rounds: verifications.
        offered: by position in the draft, rounds whose draft was at least that long.
        reached: by position, rounds whose draft was accepted up to and including it.
    """

    texts: int = 0
    tokens: int = 0
    rounds: int = 0
    offered: list[int] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)

    def count(self, draft: Sequence[int], decided: Sequence[int]) -> None:
        """Add one round."""
        self.tokens += len(decided)
        self.rounds += 1
        self._widen(len(draft))
        for position in range(len(draft)):
            self.offered[position] += 1
            if tuple(draft[: position + 1]) == tuple(decided[: position + 1]):
                self.reached[position] += 1

    def add(self, other: Tally) -> None:
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
    draft: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def written(self) -> int:
        return len(self.context) - len(self.job.prompt)

    @property
    def finished(self) -> bool:
        return self.written >= self.job.identity.limit or (
            self.written > 0 and self.context[-1] in self.job.identity.eos
        )

    def may_draft(self, k: int) -> bool:
        ended = bool(self.draft) and self.draft[-1] in self.job.identity.eos
        return not ended and len(self.draft) < min(k, self.job.identity.limit - self.written - 1)


class Rounds:
    """Writes texts, some at once.

    Args:
        engine: the worker's.
        drafter: the edge's.
        k: tokens drafted per round at most.
        at_once: texts that share the forwards.
    """

    def __init__(self, engine: Engine, drafter: ModelDrafter, *, k: int, at_once: int) -> None:
        self._engine = engine
        self._drafter = drafter
        self._k = k
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
                if text.later:
                    again = _Text(text.session, text.later[1:], text.later[0], list(text.later[0].prompt))
                    active[active.index(text)] = again
                else:
                    active.remove(text)
                    self._engine.free((EDGE, text.session))
                    self._drafter.free(text.session)

    def _draft(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            text.draft = []
        while True:
            drafting = [
                text
                for text in texts
                if text.may_draft(self._k) and self._drafter.fits([*text.context, *text.draft])
            ]
            if not drafting:
                return
            wanted = [
                Wanted(text.session, [*text.context, *text.draft], sampling(text.job.identity))
                for text in drafting
            ]
            for text, guesses in zip(drafting, self._drafter.draft(wanted), strict=True):
                text.draft += [guess.token for guess in guesses or ()]

    def _verify(self, texts: Sequence[_Text]) -> None:
        batcher = Batcher(prefill=256)
        by_session = {text.session: text for text in texts}
        for text in texts:
            batcher.add(work_item(text.session, text.job, text.context, text.draft))
        while batcher.pending:
            for result in batcher.settle(self._engine.step(batcher.compose(self._engine))):
                text = by_session[result.item.key[1]]
                text.tally.count(text.draft, result.tokens)
                text.context += result.tokens


def work_item(session: int, job: Job, context: Sequence[int], draft: Sequence[int]) -> WorkItem:
    """What the worker's protocol would hand to its engine."""
    return WorkItem(
        key=(EDGE, session),
        start=len(context) - len(job.prompt),
        digest=0,
        context=tuple(context),
        prompt_length=len(job.prompt),
        draft=tuple(draft),
        identity=job.identity,
        seq=0,
        waiting_since=0.0,
    )
