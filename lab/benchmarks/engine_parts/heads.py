"""What a packed step costs when each session is of another head, beside the same step on one head and on the base."""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.settings import WorkerSettings
from flexspec_mq.errors import UsageError
from flexspec_mq.models.compact.shape import FAMILIES, HEAD_NORMS, Shape
from flexspec_mq.models.heads.head import MODULES, Delta, LoraHead, Sizes, module_shapes
from flexspec_mq.models.load import torch_dtype
from flexspec_mq.protocol.worker.types import WorkItem
from lab.benchmarks._common import interleaved, percentile, table
from lab.benchmarks.engine_parts.steps import Case, timed
from lab.benchmarks.parts.rounds import EDGE
from schemas.messages import PROTOCOL_VERSION, Identity

SESSIONS = 4
DRAFTED = 4
"""Tokens of each session; with the last one of its text they make five rows."""
RANK = 16
BAR = 1.25
"""The step on four heads, over the same step on one."""
_SIZE = 0.02
"""Standard deviation of a random addition's weights."""


def lora(sizes: Sizes, floor: int, seed: int, dtype: torch.dtype) -> LoraHead:
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


def cases(engine: EngineCore, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """Steps of four sessions by their heads, each with an edge's draft to judge."""

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
        return timed(engine.step)

    several = [f"head {number}" for number in range(SESSIONS)]
    return {
        "base": partial(case, "base", [""] * SESSIONS),
        "one head": partial(case, "one", several[:1] * SESSIONS),
        f"{SESSIONS} heads": partial(case, "several", several),
    }


def measure(options: Namespace, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure and print; the results.

    Args:
        options: of the command.
        texts: a context for each session, and more.

    Raises:
        UsageError: the target has no layers above the floor.
    """
    settings = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(settings, lambda text: print(text, file=sys.stderr, flush=True))
    sizes = Shape.of(target.loaded.config, (*FAMILIES, *HEAD_NORMS))
    if not options.floor < sizes.layers:
        raise UsageError(f"--floor {options.floor} is none of the target's {sizes.layers} layers")
    engine = EngineCore(target.model, prefill=2**20)
    for number in range(SESSIONS):
        name = f"head {number}"
        target.model.hold(name, lora(sizes, options.floor, number, torch_dtype(options.dtype)))
        engine.scheduler.heads[name] = name
    steps = cases(engine, texts[:SESSIONS])
    for step in steps.values():
        step()  # reads the contexts; every later step reads their last token again, and the draft
        step()
    times = interleaved(steps, options.pairs, rng=random.Random(options.seed))
    return _told(times)


def _told(times: dict[str, list[float]]) -> dict[str, Any]:
    base, one, several = times.values()
    ratios = {
        name: percentile([more / less for more, less in zip(*pair, strict=True)], 0.5)
        for name, pair in {
            f"{SESSIONS} heads to one": (several, one),
            f"{SESSIONS} heads to base": (several, base),
            "one head to base": (one, base),
        }.items()
    }
    print(
        f"\na step of {SESSIONS} sessions of {DRAFTED + 1} rows, {len(base)} in turns; heads of rank {RANK}"
    )
    rows = [
        [name, percentile(found, 0.5), min(found), percentile(found, 0.95)] for name, found in times.items()
    ]
    print(table(("case", "ms", "least", "p95"), rows))
    print()
    print(table(("median of pairs", "times"), [[*pair] for pair in ratios.items()]))
    value = ratios[f"{SESSIONS} heads to one"]
    return {
        "ms": {str(name): {"median": mid, "least": least, "p95": high} for name, mid, least, high in rows},
        "ratios": ratios,
        "bars": {"heads": {"value": value, "most": BAR, "met": value <= BAR}},
    }
