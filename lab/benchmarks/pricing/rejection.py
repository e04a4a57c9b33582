"""The traditional way, to compare with: rejection sampling with the draft's full probabilities.

Leviathan et al., arXiv 2211.17192, algorithm 1. The draft samples from its own distribution q with randomness of its
own, and `lab.bench.traditional.rejection.verify` decides. The text has exactly the target's distribution, but
is another one for other drafts and other batches, and q must travel with every drafted token. Only what
``flexspec bench`` compares with does so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flexspec_mq.drafting.interface import DraftToken
from flexspec_mq.models.invariance.proof import Provable
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.traditional.rejection import Floats, draw, probabilities, verify
from lab.benchmarks.parts.rounds import Job, Tally

PREFILL = 256
"""Prompt tokens that one forward reads."""


@dataclass(slots=True)
class _Text:
    job: Job
    later: list[Job]
    context: list[int]
    draft_kv: SessionKV
    target_kv: SessionKV
    rng: np.random.Generator
    draft: list[int] = field(default_factory=list)
    q: list[Floats] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def start(self, job: Job) -> None:
        """Begin another text with the same prompt."""
        self.job, self.context, self.tally = job, list(job.prompt), Tally()
        self.rng = _rng(job)

    @property
    def written(self) -> int:
        return len(self.context) - len(self.job.prompt)

    @property
    def finished(self) -> bool:
        identity = self.job.identity
        return self.written >= identity.limit or (self.written > 0 and self.context[-1] in identity.eos)

    def may_draft(self, k: int) -> bool:
        ended = bool(self.draft) and self.draft[-1] in self.job.identity.eos
        return not ended and len(self.draft) < min(k, self.job.identity.limit - self.written - 1)


class RejectionRounds:
    """As `lab.benchmarks.parts.rounds.Rounds`, by rejection sampling. Temperatures must be above 0.

    Args:
        target: the target, packed.
        draft: the draft, packed, with the same ids.
        k: tokens drafted per round at most.
        at_once: texts that share the forwards.
    """

    def __init__(self, target: Provable, draft: Provable, *, k: int, at_once: int) -> None:
        self._target = target
        self._draft = draft
        self._k = k
        self._at_once = at_once

    def run(self, jobs: Sequence[Sequence[Job]], done: Callable[[Job, tuple[int, ...], Tally], None]) -> None:
        """Write all texts.

        Args:
            jobs: each a series of texts with the same prompt, which is read once for all of them. A text's
                randomness comes from the seed of its identity.
            done: told of each finished text: its job, its tokens, its rounds.
        """
        waiting = list(jobs)
        active: list[_Text] = []
        while waiting or active:
            while waiting and len(active) < self._at_once:
                active.append(self._open(waiting.pop(0)))
            self._guess(active)
            self._verify(active)
            for text in [text for text in active if text.finished]:
                text.tally.texts = 1
                done(text.job, tuple(text.context[len(text.job.prompt) :]), text.tally)
                if text.later:
                    text.start(text.later.pop(0))
                else:
                    active.remove(text)

    def _open(self, series: Sequence[Job]) -> _Text:
        job = series[0]
        kvs = [model.new_kv() for model in (self._draft, self._target)]
        for model, kv in zip((self._draft, self._target), kvs, strict=True):
            read(model, kv, job.prompt[:-1])
        return _Text(job, list(series[1:]), list(job.prompt), kvs[0], kvs[1], _rng(job))

    def _guess(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            text.draft, text.q = [], []
        while drafting := [text for text in texts if text.may_draft(self._k)]:
            inputs = []
            for text in drafting:
                context = [*text.context, *text.draft]
                known = text.draft_kv.match(context[:-1])
                inputs.append(ModelInput(text.draft_kv, context[known:]))
            for text, row in zip(drafting, to_numpy(self._draft.forward(inputs)), strict=True):
                q = probabilities(row, SamplingParams.of(text.job.identity))
                text.q.append(q)
                text.draft.append(draw(q, text.rng))

    def _verify(self, texts: Sequence[_Text]) -> None:
        inputs = []
        for text in texts:
            known = text.target_kv.match(text.context[:-1])
            inputs.append(
                ModelInput(text.target_kv, [*text.context[known:], *text.draft], len(text.draft) + 1)
            )
        logits = to_numpy(self._target.forward(inputs))
        row = 0
        for text, model_input in zip(texts, inputs, strict=True):
            params = SamplingParams.of(text.job.identity)
            p = [probabilities(one, params) for one in logits[row : row + model_input.rows]]
            row += model_input.rows
            decided = verify(p, text.q, text.draft, text.job.identity.eos, text.rng)
            text.tally.count([DraftToken(token) for token in text.draft], decided)
            text.context += decided


def read(model: Provable, kv: SessionKV, tokens: Sequence[int]) -> None:
    """Read what `kv` does not hold yet of `tokens`, some at a time."""
    for begin in range(kv.match(tokens), len(tokens), PREFILL):
        model.forward([ModelInput(kv, tokens[begin : begin + PREFILL], 0)])


def _rng(job: Job) -> np.random.Generator:
    return np.random.default_rng(job.identity.seed)
