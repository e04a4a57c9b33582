"""Recording: the target writes the texts, then the draft is asked at each position of them, as on an edge."""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._common import percentile
from benchmarks.pricing.asked import chosen_questions, say
from flexspec_mq.bench.questions import Question
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.interface import Drafter, DraftRequest, DraftToken
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.simulator.recording import About, RecordedText, Recording, keep_recording, read_recording

if TYPE_CHECKING:
    from benchmarks.parts.rounds import Job, Tally

_AT_ONCE = 16
"""Texts that share the target's forwards while they are written."""


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
    from benchmarks.parts.rounds import Rounds
    from benchmarks.pricing.setup import Progress, make_jobs
    from cloud_worker.engine import target as cloud_target
    from cloud_worker.engine.engine import EngineCore
    from cloud_worker.settings import WorkerSettings
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting import load as draft_model

    target = cloud_target.load(WorkerSettings(target=about.target, worker="recorded"), say)
    loaded = target.loaded
    draft = draft_model.load(EdgeSettings(edge="recorded", draft=about.draft), say)
    if draft.model is None or draft.loaded.fingerprint != loaded.fingerprint:
        raise FingerprintError("draft and target have different tokenizers")
    jobs = make_jobs(questions, loaded, options)
    engine = EngineCore(target.model)
    written: dict[Job, tuple[int, ...]] = {}
    progress = Progress("written", sum(map(len, jobs)))

    def done(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:  # noqa: ARG001  what rounds tell
        written[job] = tokens
        progress.step()

    Rounds(engine, draft.model, Plan(4), at_once=_AT_ONCE).run(jobs, done)
    progress = Progress("drafted", len(written))
    texts: list[RecordedText] = []
    times: list[float] = []
    for number, job in enumerate(itertools.chain.from_iterable(jobs)):
        texts.append(_drafted(draft.model, len(jobs) + number, job, written[job], times))
        progress.step()
    return Recording(
        about=about,
        fingerprint=loaded.fingerprint.hex(),
        eos=tuple(loaded.eos),
        vocab_size=loaded.vocab_size,
        max_context=loaded.max_context,
        draft_ms=percentile(times, 0.5),
        texts=tuple(texts),
    )


def _drafted(
    drafter: Drafter, session: int, job: Job, tokens: Sequence[int], times: list[float]
) -> RecordedText:
    """Walk along a text; `times` gets the milliseconds of each token but the first, for which the prompt is read."""
    proposals: list[DraftToken] = []
    context = list(job.prompt)
    for place, token in enumerate(tokens):
        one = DraftRequest(session, context, job.identity, len(context), len(job.prompt), place)
        # The processor's time: it is the clock's where nobody else computes, as the draft has one thread.
        began = time.process_time()
        while not (found := drafter.draft([one])[0]):
            continue
        if place:
            times.append(1000 * (time.process_time() - began))
        proposals.append(found[0])
        context.append(token)
    drafter.free(session)
    return RecordedText(
        job.prompt,
        job.identity.temperature,
        job.identity.seed,
        tuple(tokens),
        tuple((one.token, one.confidence) for one in proposals),
    )
