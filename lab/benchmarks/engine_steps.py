"""A verification step of ours: the packed forward, the step that decides, and steps of several heads."""

from __future__ import annotations

import random
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.engine.target import Target
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import UsageError
from flexspec_mq.models.heads.head import MODULES, Delta, LoraHead, module_shapes
from flexspec_mq.models.invariance.proof import Provable
from flexspec_mq.models.load import LoadedText, torch_dtype
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape
from flexspec_mq.protocol.worker.types import WorkItem
from lab.benchmarks._common import interleaved, percentile, say, table
from lab.benchmarks.rounds import EDGE, Job, work_item
from schemas.messages import PROTOCOL_VERSION, Identity

SESSIONS = (1, 4, 16)
TOKENS = (1, 8)
MOST = max(SESSIONS)
PACKING_BAR = 3.5
"""A step of one token for each of 16 sessions, over a step of one token for one."""
HEADS = 4
DRAFTED = 4
"""Tokens of each session with a head; with the last one of its text they make five rows."""
RANK = 16
HEADS_BAR = 1.25
"""The step on four heads, over the same step on one."""
_SIZE = 0.02
"""Standard deviation of a random addition's weights."""

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


def step_cases(engine: EngineCore, loaded: LoadedText, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
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


def random_head(sizes: Shape, floor: int, seed: int, dtype: torch.dtype) -> LoraHead:
    """A random head on all modules of the layers from `floor` on."""
    draw = torch.Generator().manual_seed(seed)

    def delta(outputs: int, inputs: int) -> Delta:
        down, up = (
            (_SIZE * torch.randn(shape, generator=draw)).to(dtype)
            for shape in ((RANK, inputs), (outputs, RANK))
        )
        return Delta(down, up, 2.0)

    shapes = module_shapes(sizes)
    return LoraHead(
        {layer: {name: delta(*shapes[name]) for name in MODULES} for layer in range(floor, sizes.layers)}
    )


def head_cases(engine: EngineCore, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """Steps of four sessions by their heads, each with a device's draft to judge."""

    def case(name: str, versions: Sequence[str]) -> float:
        identity = Identity(PROTOCOL_VERSION, b"", 0.0, 0, 1.0, 0, (), True, 1024)
        for session, (text, version) in enumerate(zip(texts, versions, strict=True)):
            context, draft = tuple(text[:-DRAFTED]), tuple(text[-DRAFTED:])
            item = WorkItem(
                key=(f"{EDGE} {name}", session),  # what was read for one head is of no use for another
                version=version,
                start=0,
                digest=0,
                context=context,
                prompt_length=len(context),
                draft=draft,
                identity=identity,
                seq=0,
                waiting_since=0.0,
            )
            engine.scheduler.add(item)
        return _timed(engine.step)

    several = [f"head {number}" for number in range(HEADS)]
    return {
        "base": partial(case, "base", [""] * HEADS),
        "one head": partial(case, "one", several[:1] * HEADS),
        f"{HEADS} heads": partial(case, "several", several),
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
        options: of the command.
        texts: a context for each of `MOST` sessions.
    """
    target = _load(options)
    engine = EngineCore(target.model, prefill=2**20)
    cases = {**forward_cases(target.model, texts), **step_cases(engine, target.loaded, texts)}
    for case in cases.values():
        case()  # warm up
    ms = _show(interleaved(cases, options.rounds, rng=random.Random(options.seed)))
    packing = _bar(ms[step_name(MOST, 0.0)]["median"] / ms[step_name(1, 0.0)]["median"], PACKING_BAR)
    return {"rounds": options.rounds, "exact": target.proof.exact, "ms": ms, "bars": {"packing": packing}}


def measure_heads(options: Namespace, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure and print steps of several heads; the results.

    Args:
        options: of the command.
        texts: a context for each session, and more.

    Raises:
        UsageError: the target has no layers above the floor.
    """
    target = _load(options)
    sizes = Shape.of(target.loaded.config, (*FAMILIES, *HEAD_NORMS))
    if not options.floor < sizes.layers:
        raise UsageError(f"--floor {options.floor} is none of the target's {sizes.layers} layers")
    engine = EngineCore(target.model, prefill=2**20)
    for number in range(HEADS):
        name = f"head {number}"
        target.model.hold(name, random_head(sizes, options.floor, number, torch_dtype(options.dtype)))
        engine.scheduler.heads[name] = name
    cases = head_cases(engine, texts[:HEADS])
    for case in cases.values():
        case()  # reads the contexts; every later step reads their last token again, and the draft
        case()
    print(f"\na step of {HEADS} sessions of {DRAFTED + 1} rows; heads of rank {RANK}")
    times = interleaved(cases, options.rounds, rng=random.Random(options.seed))
    ms = _show(times)
    base, one, several = times.values()
    ratios = {
        name: percentile([more / less for more, less in zip(*pair, strict=True)], 0.5)
        for name, pair in {"heads to one": (several, one), "one head to base": (one, base)}.items()
    }
    return {"ms": ms, "ratios": ratios, "bars": {"heads": _bar(ratios["heads to one"], HEADS_BAR)}}
