"""What the padding that makes verification shape-invariant costs, and what is said where it is missing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from flexspec_mq.models.invariance.proof import prove
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from lab.benchmarks import _common

_UNPADDED = Shapes(min_rows=1, max_rows=None, attention_rows=1, context_grain=1, value_block=10**9)
_CASES = {"1 session, 1 row": (1, 1), "1 session, 5 rows": (1, 5), "8 sessions, 5 rows each": (8, 5)}
_CONTEXT = 200


def measure(
    folder: str,
    dtype: str,
    prompts: Sequence[Sequence[int]],
    rounds: int,
    rng: random.Random,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Prove, time forwards with and without padding in turns, and prove again without it.

    Returns:
        Seconds of the proof, medians in ms for a forward behind about 200 tokens, their ratios, and the messages.
    """
    padded, plain = (
        PackedModel(load_target(folder, dtype=dtype, attn_implementation=register()).model, shapes)
        for shapes in (None, _UNPADDED)
    )
    say(f"{dtype}: proving")
    proof = prove(padded)
    say(f"{dtype}: {proof}")
    times = _common.interleaved(
        {
            f"{name}{'' if model is padded else ', not padded'}": _case(model, prompts, *shape)
            for name, shape in _CASES.items()
            for model in (padded, plain)
        },
        rounds,
        rng=rng,
    )
    ms = {name: round(1000 * median(values), 2) for name, values in times.items()}
    ratios = {name: round(ms[name] / ms[f"{name}, not padded"], 3) for name in _CASES}
    say(f"{dtype}: proving without padding")
    bad = prove(plain)
    return {
        "exact": proof.exact,
        "message": str(proof),
        "proof_seconds": round(proof.seconds, 2),
        "forward_ms": ms,
        "padded_to_plain": ratios,
        "without_padding_exact": bad.exact,
        "without_padding_message": str(bad),
    }


def _case(
    model: PackedModel, prompts: Sequence[Sequence[int]], sessions: int, rows: int
) -> Callable[[], float]:
    """A forward of `rows` tokens for each session; returns its seconds. Rolls back, so each call does the same."""
    ids = [token for prompt in prompts for token in prompt]
    while len(ids) < sessions * _CONTEXT + rows:
        ids += ids
    caches = [model.new_kv() for _ in range(sessions)]
    for place, kv in enumerate(caches):
        model.forward([ModelInput(kv, ids[place * _CONTEXT : (place + 1) * _CONTEXT], 0)])

    def once() -> float:
        began = time.perf_counter()
        model.forward([ModelInput(kv, ids[:rows], rows) for kv in caches])
        seconds = time.perf_counter() - began
        for kv in caches:
            kv.roll_back(_CONTEXT)
        return seconds

    return once
