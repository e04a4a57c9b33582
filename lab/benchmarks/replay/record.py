"""Recordings of questions: their flags, and a file that is made where it is missing."""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from flexspec_mq.errors import FingerprintError, UsageError
from lab.bench.questions import Question
from lab.benchmarks.pricing.asked import chosen_questions, say
from lab.simulator.recording import About, Recording, keep_recording, read_recording


def add_arguments(parser: ArgumentParser) -> None:
    """Flags of models and texts."""
    group = parser.add_argument_group("recording")
    group.add_argument(
        "--recording",
        type=Path,
        metavar="FILE",
        help="read it from there; made and kept there if it is missing",
    )
    group.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    group.add_argument("--draft", default="default", help="checkpoint folder of the draft, or 'default'")
    group.add_argument("--questions", type=int, default=24, help="only so many of them, evenly spaced")
    group.add_argument("--tokens", type=int, default=64, help="new tokens per answer at most")
    group.add_argument(
        "--temperatures", type=float, nargs="+", default=[0.0, 0.7], metavar="T", help="one answer at each"
    )


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be recorded with.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("questions", "tokens"):
        if getattr(options, flag) < 1:
            raise UsageError(f"--{flag} {getattr(options, flag)} is less than 1")
    if len(set(options.temperatures)) < len(options.temperatures):
        raise UsageError("a temperature is given twice")
    if options.draft == "none":
        raise UsageError("there is nothing to record without a draft")


def recording(options: Namespace) -> Recording:
    """The recording that the flags want, from its file or made now.

    Raises:
        FlexSpecError: models cannot be loaded or do not go together; the file is of another recording.
    """
    questions, _ = chosen_questions(options)
    about = About(
        target=options.target,
        draft=options.draft,
        questions=tuple(f"{question.category} {question.name}" for question in questions),
        temperatures=tuple(options.temperatures),
        tokens=options.tokens,
        seed=options.seed,
    )
    path: Path | None = options.recording
    if path is not None and path.exists():
        return read_recording(path, about)
    made = _record(about, questions, options)
    if path is not None:
        keep_recording(path, made)
    return made


def _record(about: About, questions: Sequence[Question], options: Namespace) -> Recording:
    # They import torch, which simulations do without.
    from cloud_worker.engine import target as cloud_target
    from cloud_worker.engine.engine import EngineCore
    from cloud_worker.settings import WorkerSettings
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting import load as draft_model
    from lab.benchmarks.pricing.setup import make_jobs
    from lab.recording.texts import record

    target = cloud_target.load(WorkerSettings(target=about.target, worker="recorded"), say)
    loaded = target.loaded
    draft = draft_model.load(EdgeSettings(edge="recorded", draft=about.draft), say)
    if draft.model is None or draft.loaded.tokenizer_status.vocabulary != loaded.tokenizer_status.vocabulary:
        raise FingerprintError("draft and target have different tokenizers")
    jobs = itertools.chain.from_iterable(make_jobs(questions, loaded, options))
    asked = [(job.prompt, job.identity) for job in jobs]
    return record(about, asked, EngineCore(target.model), draft.model, loaded, say)
