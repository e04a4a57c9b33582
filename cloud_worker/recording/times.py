"""What a step of the worker's engine and a token of the draft take on this machine, for simulations."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud_worker.engine.engine import EngineCore
from cloud_worker.recording.texts import work_item
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.errors import UsageError
from flexspec_mq.models.runner import ModelInput
from flexspec_mq.simulator.cost import DraftTimes, Line, Measured
from schemas.messages import PROTOCOL_VERSION, Identity

if TYPE_CHECKING:
    from cloud_worker.engine.target import Target
    from flexspec_mq.drafting.model_drafter import ModelDrafter

SESSIONS = (1, 4, 16)
ROWS = (1, 2, 3, 5, 9)
"""Of each session."""
PIECES = (1, 8, 16, 32, 64, 128)
"""Tokens of a prompt that a forward reads."""
SHORT, LONG = 64, 1024
"""Contexts."""
_QUARTILE = 0.25
"""Others may compute beside; alone this is hardly below the median."""
_READS = 64
_TOGETHER = 4

Case = Callable[[], float]


def measure(target: Target, draft: ModelDrafter, *, rounds: int, seed: int) -> Measured:
    """Measure on the threads that torch has.

    Args:
        target: of the worker.
        draft: of worker and devices.
        rounds: how often everything is measured.
        seed: of texts, and of the order.

    Raises:
        UsageError: the target's context is too short.
    """
    if target.loaded.max_context < LONG + PIECES[-1]:
        raise UsageError(
            f"times of forwards are measured behind {LONG} tokens, which is more than this target's context has"
        )
    rng = random.Random(seed)  # noqa: S311  an experiment, no secret
    texts = [
        [rng.randrange(100, target.loaded.vocab_size) for _ in range(LONG)] for _ in range(max(SESSIONS))
    ]
    identity = Identity(PROTOCOL_VERSION, target.loaded.fingerprint, 0.0, 0, 1.0, 1, (), True, 1)
    cases = {
        **_steps(EngineCore(target.model, prefill=2**20), identity, texts),
        **_reads(target.model, texts[0]),
        **_drafts(draft, identity, texts, target.loaded.vocab_size),
    }
    ms = {
        name: float(np.quantile(taken, _QUARTILE)) for name, taken in _interleaved(cases, rounds, rng).items()
    }
    token = ms["draft, 1"]
    times = DraftTimes(
        token=token,
        session=max(0.0, ms[f"draft, {_TOGETHER}"] - token) / (_TOGETHER - 1),
        read=max(0.0, ms["draft reads"] - token) / (_READS - 1),
        context=max(0.0, ms["draft, long"] - token) / (LONG - SHORT),
        reach=max(0.0, ms["draft reads behind"] - ms["draft reads"]) / (_READS * LONG),
    )
    return Measured(
        sessions=tuple(map(float, SESSIONS)),
        rows=tuple(
            Line(tuple(map(float, ROWS)), tuple(ms[f"step, {sessions} x {rows}"] for rows in ROWS))
            for sessions in SESSIONS
        ),
        read=Line(tuple(map(float, PIECES)), tuple(ms[f"read, {piece}"] for piece in PIECES)),
        context=max(0.0, ms["step, long"] - ms["step, 1 x 1"]) / (LONG - SHORT),
        reach=max(0.0, ms["read behind"] - ms[f"read, {PIECES[-1]}"]) / (PIECES[-1] * LONG),
        draft=times,
        device=times,
    )


def _interleaved(cases: dict[str, Case], rounds: int, rng: random.Random) -> dict[str, list[float]]:
    """Each case once a round, in a new random order each round, after one to warm up."""
    for case in cases.values():
        case()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for _ in range(rounds):
        rng.shuffle(names)
        for name in names:
            taken[name].append(cases[name]())
    return taken


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of the processor that this thread had, which are the clock's where nobody else computes."""
    began = time.thread_time()
    work()
    return 1000 * (time.thread_time() - began)


def _steps(engine: EngineCore, identity: Identity, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """Steps of the worker's engine, decisions included."""

    def case(first: int, sessions: int, rows: int, context: int) -> float:
        for number, text in enumerate(texts[:sessions]):
            draft = tuple(text[: rows - 1])
            engine.scheduler.add(work_item(first + number, (), identity, text[:context], draft))
        return timed(engine.step)

    found = {
        f"step, {sessions} x {rows}": _call(case, 0, sessions, rows, SHORT)
        for sessions, rows in product(SESSIONS, ROWS)
    }
    return {**found, "step, long": _call(case, len(texts), 1, 1, LONG)}


def _reads(model: Any, text: Sequence[int]) -> dict[str, Case]:
    """Forwards over a piece of a prompt, from its beginning."""

    def case(tokens: int) -> float:
        kv = model.new_kv()
        return timed(lambda: model.forward([ModelInput(kv, text[:tokens], 0)]))

    long = model.new_kv()
    model.forward([ModelInput(long, text, 0)])

    def behind() -> float:
        took = timed(lambda: model.forward([ModelInput(long, text[: PIECES[-1]], 0)]))
        long.roll_back(len(text))
        return took

    return {**{f"read, {tokens}": _call(case, tokens) for tokens in PIECES}, "read behind": behind}


def _drafts(
    drafter: ModelDrafter, identity: Identity, texts: Sequence[Sequence[int]], vocab_size: int
) -> dict[str, Case]:
    """Tokens of the draft as an edge and a worker ask for them, and a piece of a prompt."""

    def request(session: int, context: Sequence[int]) -> DraftRequest:
        return DraftRequest(session, list(context), identity, len(context), len(context))

    def case(first: int, sessions: int, context: int) -> float:
        wanted = [request(first + number, texts[number][:context]) for number in range(sessions)]
        while None in drafter.draft(wanted):
            continue
        after = [request(first + number, texts[number][: context + 1]) for number in range(sessions)]
        return timed(lambda: drafter.draft(after))

    rng = random.Random(0)  # noqa: S311

    def reads(session: int, context: int) -> float:
        # Each time another one behind the context: what was read before is not read again.
        piece = [rng.randrange(100, vocab_size) for _ in range(2 * _READS)]
        drafter.prefill = 2**20
        if context:
            drafter.draft([request(session, texts[0][:context])])
        else:
            drafter.free(session)
        drafter.prefill = _READS
        wanted = [request(session, [*texts[0][:context], *piece])]
        return timed(lambda: drafter.draft(wanted))

    return {
        "draft, 1": _call(case, 0, 1, SHORT),
        f"draft, {_TOGETHER}": _call(case, 0, _TOGETHER, SHORT),
        "draft, long": _call(case, 100, 1, LONG - 1),
        "draft reads": _call(reads, 200, 0),
        "draft reads behind": _call(reads, 201, LONG),
    }


def _call(case: Callable[..., float], *what: int) -> Case:
    return lambda: case(*what)
