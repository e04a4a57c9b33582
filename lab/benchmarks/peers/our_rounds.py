"""Many sessions on our worker's engine: tokens per second of the engine's steps, drafts made outside of the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.errors import FingerprintError
from flexspec_mq.protocol.worker.types import WorkItem
from lab.benchmarks.parts.rounds import Job, Rounds, Tally
from schemas.messages import PROTOCOL_VERSION, Identity


@dataclass(frozen=True, slots=True)
class Written:
    """What all texts together came to.

    Attributes:
        tokens: committed after the step that read the prompts.
        seconds: of the steps that did it.
        steps: their number.
        tokens_per_round: committed for one session by one verification.
        exact: whether the worker has proved that texts do not depend on what shares a forward.
        texts: what each prompt became.
    """

    tokens: int
    seconds: float
    steps: int
    tokens_per_round: float
    exact: bool
    texts: list[list[int]]


class TimedCore(EngineCore):
    """Notes how long each step took and how many tokens it decided."""

    steps: list[tuple[float, int]]

    def step(self) -> list[tuple[WorkItem, tuple[int, ...]]]:
        """See `EngineCore.step`."""
        began = time.perf_counter()
        decided = super().step()
        self.steps.append((time.perf_counter() - began, sum(len(tokens) for _, tokens in decided)))
        return decided


class OurRounds:
    """The target as a worker loads it, and the draft as devices load it.

    Raises:
        FingerprintError: they have different tokenizers.
    """

    def __init__(self, folder: str, dtype: str, draft: str) -> None:
        settings = WorkerSettings(target=folder, worker="bench", dtype=dtype, threads=1)
        self._target = cloud_target.load(settings, _say)
        loaded = draft_model.load(EdgeSettings(edge="bench", draft=draft, lookup=False), _say)
        if (
            loaded.drafter is None
            or loaded.loaded.tokenizer_status.vocabulary != self._target.loaded.tokenizer_status.vocabulary
        ):
            raise FingerprintError("draft and target have different tokenizers")
        self._drafter = loaded.drafter

    def run(self, prompts: Sequence[Sequence[int]], tokens: int, k: int) -> Written:
        """Write a text of so many tokens to each prompt, greedily, all at once."""
        core = TimedCore(self._target.model, prefill=2**20)
        core.steps = []
        greedy = Identity(PROTOCOL_VERSION, self._target.loaded.fingerprint, 0.0, 0, 1.0, 0, (), True, tokens)
        jobs = [[Job(str(place), tuple(prompt), greedy)] for place, prompt in enumerate(prompts)]
        texts: list[list[int]] = [[] for _ in prompts]
        total = Tally()

        def done(job: Job, text: tuple[int, ...], tally: Tally) -> None:
            texts[int(job.name)] = list(text)
            total.add(tally)

        Rounds(core, self._drafter, Plan(k), at_once=len(prompts)).run(jobs, done)
        counted = steady(core.steps, len(prompts))
        return Written(
            sum(decided for _, decided in counted),
            sum(seconds for seconds, _ in counted),
            len(counted),
            total.tokens_per_round,
            self._target.proof.exact,
            texts,
        )


def steady(steps: Sequence[tuple[float, int]], sessions: int) -> list[tuple[float, int]]:
    """The steps that count: after the one that read the prompts, while every session still writes.

    A step in which each of `sessions` writes decides at least so many tokens; once fewer are, some have ended.
    """
    return list(takewhile(lambda step: step[1] >= sessions, steps[1:]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
