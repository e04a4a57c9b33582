"""What the benchmarks that price our choices share: flags, models in this process, texts to write, progress."""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.target import Target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.load import LoadedText, load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.questions import Question
from lab.benchmarks._common import parser
from lab.benchmarks.parts.rounds import Job
from lab.benchmarks.pricing.asked import ALL, say
from schemas.messages import MAX_DRAFT_TOKENS, PROTOCOL_VERSION, Identity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Models:
    """Draft and target in this process.

    Attributes:
        drafter: the edge's, over the draft alone: no lookup.
        draft: the same model, for those that need logits.
    """

    target: Target
    drafter: ModelDrafter
    draft: PackedModel


def base_parser(description: str, *, temperatures: Sequence[float]) -> ArgumentParser:
    """Flags of models, questions and texts."""
    made = parser(description)
    made.add_argument("--draft", default="default", help="checkpoint folder of the draft, or 'default'")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--k", type=int, default=4, help="tokens drafted per round")
    made.add_argument("--tokens", type=int, default=64, help="new tokens per answer at most")
    made.add_argument("--temperatures", type=float, nargs="+", default=[*temperatures], metavar="T")
    made.add_argument("--questions", type=int, metavar="N", help="only N of the questions, evenly spaced")
    made.add_argument("--at-once", type=int, default=16, help="texts that share the forwards")
    made.add_argument("--dtype", default="bfloat16", help="of draft and target")
    made.add_argument("--threads", type=int, default=1, help="of torch")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("tokens", "at_once", "questions", "repeats"):
        value = getattr(options, flag, None)
        if value is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value} is less than 1")
    if not 1 <= options.k <= MAX_DRAFT_TOKENS:
        raise UsageError(f"--k {options.k} is not between 1 and {MAX_DRAFT_TOKENS}")
    if options.draft == "none":
        raise UsageError("there is no acceptance without a draft")
    if len(set(options.temperatures)) < len(options.temperatures):
        raise UsageError("a temperature is given twice")


def shorten(options: Namespace, *, questions: int, tokens: int) -> None:
    """What ``--quick`` does to the flags."""
    options.tokens = min(options.tokens, tokens)
    options.questions = min(options.questions or questions, questions)


def load_models(options: Namespace) -> Models:
    """Load draft and target.

    Raises:
        ModelError: one of them cannot be loaded.
        FingerprintError: they have different tokenizers.
    """
    settings = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(settings, say)
    # The checkpoint itself: what an edge may do to it while loading is not what is compared here.
    path = default_draft_path(say) if options.draft == "default" else options.draft
    loaded = load_target(path, dtype=options.dtype, attn_implementation=register(), progress=say)
    if loaded.tokenizer_status.vocabulary != target.loaded.tokenizer_status.vocabulary:
        raise FingerprintError("draft and target have different tokenizers")
    draft = PackedModel(loaded.model)
    return Models(target, ModelDrafter(draft, max_context=loaded.max_context), draft)


def make_jobs(
    questions: Sequence[Question],
    loaded: LoadedText,
    options: Namespace,
    *,
    top_p: float = 1.0,
    repeats: int = 1,
) -> list[list[Job]]:
    """For each question, one text per temperature and repeat, named by the question's place.

    Raises:
        UsageError: a question and its answer do not fit the context, or no text can be sampled like this.
    """
    jobs = []
    for place, question in enumerate(questions):
        prompt = encode_turns(
            loaded.tokenizer, [Turn("user", question.text)], max_context=loaded.max_context - options.tokens
        )
        series = []
        for temperature in options.temperatures:
            for repeat in range(repeats):
                seed = random.Random(f"{options.seed} {place} {repeat}").getrandbits(64)
                identity = Identity(
                    PROTOCOL_VERSION,
                    loaded.fingerprint,
                    temperature,
                    0,
                    top_p,
                    seed,
                    loaded.eos,
                    False,
                    options.tokens,
                )
                SamplingParams.of(identity)
                series.append(Job(str(place), prompt, identity))
        jobs.append(series)
    return jobs


class Progress:
    """Says how many texts are done, at most every ten seconds.

    Args:
        what: is done to them.
        total: how many.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._began = self._said = time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._said > 10 or self._done == self._total:
            self._said = now
            say(f"{self._what}: {self._done} of {self._total} texts, {now - self._began:.0f} s")


def by_category(found: dict[str, T], questions: Sequence[Question]) -> dict[str, list[T]]:
    """What was found for each question, named by its place, by category; `ALL` last."""
    groups: dict[str, list[T]] = {}
    for place, one in found.items():
        groups.setdefault(questions[int(place)].category, []).append(one)
    return {**dict(sorted(groups.items())), ALL: list(found.values())}
