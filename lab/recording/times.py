"""What a step of the worker's engine and a token of the draft take on this machine, for simulations."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.errors import UsageError
from flexspec_mq.models.runner import ModelInput
from lab.recording.texts import work_item
from lab.simulator.cost import DraftTimes, Line, Measured
from schemas.messages import PROTOCOL_VERSION, Identity

if TYPE_CHECKING:
    from cloud_worker.engine.target import Target
    from flexspec_mq.drafting.model_drafter import ModelDrafter

SESSIONS = (1, 4, 16)
ROWS = (1, 2, 3, 5, 9)
"""Of each session."""
PIECES = (1, 2, 3, 4, 8, 16, 32, 64, 128)
"""Tokens of a prompt that a forward reads."""
_BESIDE = tuple(piece for piece in PIECES if piece >= 8)
"""Likewise, beside sessions that it decides: a worker reads no less."""
SHORT = 256
"""Tokens of a context in the mean: for several sessions from half of it up, as those of real ones are never alike."""
LONG = {1: 1024, 4: 512, 16: 512}
"""Likewise, of so many sessions with longer ones."""
_FAR = 1024
"""Tokens that are read before a piece of a prompt, or by a draft."""
_QUARTILE = 0.25
"""Others may compute beside; alone this is hardly below the median."""
_READS = 64
_TOGETHER = 4
_MANY = 5
"""Rows of so many sessions with long contexts."""
_ONE_SESSION = 4
"""Times a round that steps of one session are measured."""


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
    if target.loaded.max_context < _FAR + PIECES[-1]:
        raise UsageError(
            f"times of forwards are measured behind {_FAR} tokens, which is more than this target's context has"
        )
    rng = random.Random(seed)
    texts = [
        [rng.randrange(100, target.loaded.vocab_size) for _ in range(2 * _FAR)] for _ in range(max(SESSIONS))
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
        context=max(0.0, ms["draft, long"] - token) / (_FAR - SHORT),
        reach=max(0.0, ms["draft reads behind"] - ms["draft reads"]) / (_READS * _FAR),
    )

    def context(sessions: int, rows: int) -> float:
        """What a token of a context adds to a step."""
        longer = ms[f"step, long, {sessions} x {rows}"] - ms[f"step, {sessions} x {rows}"]
        return longer / (sessions * (LONG[sessions] - SHORT))

    contexts = {sessions: max(0.0, context(sessions, 1)) for sessions in LONG}
    more = (context(sessions, _MANY) - context(sessions, 1) for sessions in (1, _TOGETHER))
    behind = max(0.0, fmean(more) / (_MANY - 1))

    def line(sessions: int) -> Line:
        """Without what the contexts cost."""
        found = [
            ms[f"step, {sessions} x {rows}"] - sessions * SHORT * (contexts[sessions] + (rows - 1) * behind)
            for rows in ROWS
        ]
        return Line(tuple(map(float, ROWS)), tuple(found))

    return Measured(
        sessions=tuple(map(float, SESSIONS)),
        rows=tuple(map(line, SESSIONS)),
        read=Line(tuple(map(float, PIECES)), tuple(ms[f"read, {piece}"] for piece in PIECES)),
        beside=Line(
            tuple(float(_TOGETHER + piece) for piece in (0, *_BESIDE)),
            tuple(ms[f"beside, {piece}"] for piece in (0, *_BESIDE)),
        ),
        context=Line(tuple(map(float, SESSIONS)), tuple(contexts[sessions] for sessions in SESSIONS)),
        behind=behind,
        reach=max(0.0, ms["read behind"] - ms[f"read, {PIECES[-1]}"]) / (PIECES[-1] * _FAR),
        draft=times,
        device=times,
    )


def _interleaved(cases: dict[str, Case], rounds: int, rng: random.Random) -> dict[str, list[float]]:
    """All cases in each round, in a new random order each, after one to warm up."""
    for case in cases.values():
        case()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    # Differences between steps of one session are small beside what such a step takes, and it is soon measured.
    names = [name for name in cases for _ in range(_ONE_SESSION if " 1 x " in name else 1)]
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

    def case(first: int, sessions: int, rows: int, mean: int) -> float:
        for number, (text, context) in enumerate(zip(texts, _contexts(sessions, mean), strict=False)):
            draft = tuple(text[: rows - 1])
            engine.scheduler.add(work_item(first + number, (), identity, text[:context], draft))
        return timed(engine.step)

    # Each number of sessions has sessions of its own, so that nothing is read again.
    found = {
        f"step, {sessions} x {rows}": _call(case, 100 * sessions, sessions, rows, SHORT)
        for sessions, rows in product(SESSIONS, ROWS)
    }
    for sessions, rows in (*((sessions, 1) for sessions in SESSIONS), (1, _MANY), (_TOGETHER, _MANY)):
        first, mean = 10_000 + 100 * sessions, LONG[sessions]
        found[f"step, long, {sessions} x {rows}"] = _call(case, first, sessions, rows, mean)
    return found


def _contexts(sessions: int, mean: int) -> list[int]:
    """Evenly from half of a mean to one and a half of it."""
    if sessions == 1:
        return [mean]
    return [round(mean * (0.5 + number / (sessions - 1))) for number in range(sessions)]


def _reads(model: Any, text: Sequence[int]) -> dict[str, Case]:
    """Forwards over a piece of a prompt, from its beginning; alone, and beside sessions that write."""

    def case(tokens: int) -> float:
        kv = model.new_kv()
        return timed(lambda: model.forward([ModelInput(kv, text[:tokens], 0)]))

    long = model.new_kv()
    model.forward([ModelInput(long, text[:_FAR], 0)])

    def behind() -> float:
        took = timed(lambda: model.forward([ModelInput(long, text[: PIECES[-1]], 0)]))
        long.roll_back(_FAR)
        return took

    writing = [model.new_kv() for _ in range(_TOGETHER)]
    contexts = _contexts(_TOGETHER, SHORT)
    for kv, context in zip(writing, contexts, strict=True):
        model.forward([ModelInput(kv, text[:context], 0)])

    def beside(tokens: int) -> float:
        inputs = [ModelInput(kv, text[:1]) for kv in writing]
        if tokens:
            inputs.append(ModelInput(model.new_kv(), text[:tokens], 0))
        took = timed(lambda: model.forward(inputs))
        for kv, context in zip(writing, contexts, strict=True):
            kv.roll_back(context)
        return took

    return {
        **{f"read, {tokens}": _call(case, tokens) for tokens in PIECES},
        "read behind": behind,
        **{f"beside, {tokens}": _call(beside, tokens) for tokens in (0, *_BESIDE)},
    }


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

    rng = random.Random(0)

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
        "draft, long": _call(case, 100, 1, _FAR - 1),
        "draft reads": _call(reads, 200, 0),
        "draft reads behind": _call(reads, 201, _FAR),
    }


def _call(case: Callable[..., float], *what: int) -> Case:
    return lambda: case(*what)
