"""A verification step of ours: the packed forward, and the step that decides."""

from __future__ import annotations

import random
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.target import Target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.models.invariance.proof import Provable
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks._common import interleaved, percentile, say, table
from lab.benchmarks.rounds import Job, work_item
from schemas.messages import PROTOCOL_VERSION, Identity

SESSIONS = (1, 4, 16)
TOKENS = (1, 8)
MOST = max(SESSIONS)
PACKING_BAR = 3.5
"""A step of one token for each of 16 sessions, over a step of one token for one."""
Case = Callable[[], float]


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def forward_cases(model: Provable, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """The packed forward alone, by sessions and tokens of each."""
    kvs = [model.new_kv() for _ in texts]
    for kv, text in zip(kvs, texts, strict=True):
        model.forward([ModelInput(kv, text[:-1], 0)])

    def case(sessions: int, tokens: int) -> float:
        inputs = [
            ModelInput(kv, [*text[-1:], *text[: tokens - 1]], tokens)
            for kv, text in zip(kvs[:sessions], texts, strict=False)
        ]
        spent = _timed(lambda: model.forward(inputs))
        for model_input in inputs:
            model_input.kv.roll_back(model_input.kv.length - tokens)
        return spent

    return {
        f"forward, {sessions} x {tokens}": partial(case, sessions, tokens)
        for tokens in TOKENS
        for sessions in SESSIONS
    }


def step_name(sessions: int, temperature: float) -> str:
    """The name of a case."""
    return f"step, {sessions} x 1, T = {temperature:g}"


def step_cases(engine: ModelEngine, loaded: LoadedText, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """Engine steps, forward and decision, of one token for each session."""

    def case(sessions: int, temperature: float) -> float:
        for session, text in enumerate(texts[:sessions]):
            identity = Identity(
                PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, session, loaded.eos, True, 1
            )
            engine.scheduler.add(work_item(session, Job("", (), identity), text, ()))
        return _timed(engine.step)

    case(MOST, 0.0)  # reads the contexts; every later step reads their last token again
    return {
        step_name(sessions, temperature): partial(case, sessions, temperature)
        for sessions in SESSIONS
        for temperature in (0.0, 1.0)
    }


def _load(options: Namespace) -> Target:
    settings = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    return cloud_target.load(settings, say)


def _show(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    ms = {
        name: {"median": percentile(found, 0.5), "least": min(found), "p95": percentile(found, 0.95)}
        for name, found in times.items()
    }
    print(table(("case", "ms", "least", "p95"), [[name, *one.values()] for name, one in ms.items()]))
    return ms


def _bar(value: float, most: float) -> dict[str, Any]:
    print(f"\n{value:.2f}, at most {most:g}: {'yes' if value <= most else 'no'}")
    return {"value": value, "most": most, "met": value <= most}


def measure_steps(options: Namespace, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure and print forwards and steps; the results.

    Args:
        options: options of the command.
        texts: a context for each of `MOST` sessions.
    """
    target = _load(options)
    engine = ModelEngine(target.model, prefill=2**20)
    cases = {**forward_cases(target.model, texts), **step_cases(engine, target.loaded, texts)}
    for case in cases.values():
        case()  # warm up
    ms = _show(interleaved(cases, options.rounds, rng=random.Random(options.seed)))
    packing = _bar(ms[step_name(MOST, 0.0)]["median"] / ms[step_name(1, 0.0)]["median"], PACKING_BAR)
    return {"rounds": options.rounds, "exact": target.proof.exact, "ms": ms, "bars": {"packing": packing}}
