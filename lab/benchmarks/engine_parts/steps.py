"""What a verification step of ours costs: the packed forward, the step and the noise in it, beside `generate`."""

from __future__ import annotations

import random
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.settings import WorkerSettings
from flexspec_mq.models.invariance.proof import Provable
from flexspec_mq.models.load import LoadedText, load_target
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.noise import gumbel
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks._common import interleaved, percentile, table
from lab.benchmarks.parts.rounds import Job, work_item
from schemas.messages import PROTOCOL_VERSION, Identity

SESSIONS = (1, 4, 16)
TOKENS = (1, 8)
MOST = max(SESSIONS)
PACKING_BAR = 3.5
"""A step of one token for each of 16 sessions, over a step of one token for one."""
NOISE_BAR = 0.05
"""Share of a step of 16 sessions at temperature 1 that common random numbers may cost."""

Case = Callable[[], float]


def timed(work: Callable[[], object]) -> float:
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
        spent = timed(lambda: model.forward(inputs))
        for model_input in inputs:
            model_input.kv.roll_back(model_input.kv.length - tokens)
        return spent

    return {
        forward_name(sessions, tokens): partial(case, sessions, tokens)
        for tokens in TOKENS
        for sessions in SESSIONS
    }


def forward_name(sessions: int, tokens: int) -> str:
    """Of a case."""
    return f"forward, {sessions} x {tokens}"


def step_name(sessions: int, temperature: float) -> str:
    """Of a case."""
    return f"step, {sessions} x 1, T = {temperature:g}"


def step_cases(engine: EngineCore, loaded: LoadedText, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """Engine steps, forward and decision, of one token for each session."""

    def case(sessions: int, temperature: float) -> float:
        for session, text in enumerate(texts[:sessions]):
            identity = Identity(
                PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, session, loaded.eos, True, 1
            )
            engine.scheduler.add(work_item(session, Job("", (), identity), text, ()))
        return timed(engine.step)

    case(MOST, 0.0)  # reads the contexts; every later step reads their last token again
    return {
        step_name(sessions, temperature): partial(case, sessions, temperature)
        for sessions in SESSIONS
        for temperature in (0.0, 1.0)
    }


def choice_cases(model: Provable, texts: Sequence[Sequence[int]]) -> dict[str, Case]:
    """The sampling of 16 rows of real logits, and the noise as a whole vocabulary would need it."""
    logits = to_numpy(model.forward([ModelInput(model.new_kv(), text, 1) for text in texts]))

    def choices(temperature: float, top_p: float = 1.0) -> float:
        params = [SamplingParams(temperature, 0, top_p, seed) for seed in range(MOST)]
        return timed(lambda: [choose(row, one, 100) for row, one in zip(logits, params, strict=True)])

    return {
        "choose, 16 rows, T = 0": partial(choices, 0.0),
        "choose, 16 rows, T = 1": partial(choices, 1.0),
        "choose, 16 rows, T = 1, top-p 0.95": partial(choices, 1.0, 0.95),
        "gumbel, 16 rows": lambda: timed(lambda: [gumbel(seed, 100, len(logits[0])) for seed in range(MOST)]),
    }


class Clock(StoppingCriteria):
    """Stops nothing; notes when each token was written."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_kwargs: Any) -> torch.Tensor:
        """Asked by transformers after each token of the batch."""
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class Reference:
    """transformers' own `generate`, greedy."""

    model: Any
    texts: Sequence[Sequence[int]]
    tokens: int

    def cases(self) -> dict[str, Case]:
        """One session and 16."""
        return {generate_name(sessions): partial(self._case, sessions) for sessions in (1, MOST)}

    def _case(self, sessions: int) -> float:
        """Median milliseconds from one token to the next, so that reading the prompt does not count."""
        width = min(map(len, self.texts))
        ids = torch.tensor([text[-width:] for text in self.texts[:sessions]])
        clock = Clock()
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            pad_token_id=0,
            min_new_tokens=self.tokens,
            max_new_tokens=self.tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return 1e3 * percentile([after - before for before, after in pairwise(clock.times)], 0.5)


def generate_name(sessions: int) -> str:
    """Of a case."""
    return f"transformers generate, {sessions} x 1"


def bars(medians: dict[str, float]) -> dict[str, dict[str, Any]]:
    """What the medians say to what the engine is held to."""
    step = medians[step_name(MOST, 1.0)]
    packing = medians[step_name(MOST, 0.0)] / medians[step_name(1, 0.0)]
    noise = (step - medians[step_name(MOST, 0.0)]) / step
    return {
        "packing": {"value": packing, "most": PACKING_BAR, "met": packing <= PACKING_BAR},
        "noise": {
            "value": noise,
            "most": NOISE_BAR,
            "met": noise <= NOISE_BAR,
            "gumbel_of_whole_vocabulary": medians["gumbel, 16 rows"] / step,
            "choices_one_after_the_other": (
                medians["choose, 16 rows, T = 1"] - medians["choose, 16 rows, T = 0"]
            )
            / step,
        },
    }


def measure(options: Namespace, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure and print; the results.

    Args:
        options: of the command.
        texts: a context for each of `MOST` sessions.
    """
    settings = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(settings, lambda text: print(text, file=sys.stderr, flush=True))
    reference = load_target(options.target, dtype=options.dtype, attn_implementation=options.reference)
    engine = EngineCore(target.model, prefill=2**20)
    cases = {
        **forward_cases(target.model, texts),
        **step_cases(engine, target.loaded, texts),
        **choice_cases(target.model, texts),
        **Reference(reference.model, texts, options.generate).cases(),
    }
    for case in cases.values():
        case()  # warm up
    times = interleaved(cases, options.rounds, rng=random.Random(options.seed))
    medians = {name: percentile(times[name], 0.5) for name in cases}
    rows = [
        [name, median, min(times[name]), percentile(times[name], 0.95)] for name, median in medians.items()
    ]
    print(table(("case", "ms", "least", "p95"), rows))
    judged = bars(medians)
    print()
    print(
        table(
            ("bar", "measured", "at most", "met"),
            [
                [name, bar["value"], bar["most"], "yes" if bar["met"] else "no"]
                for name, bar in judged.items()
            ],
        )
    )
    return {
        "reference": options.reference,
        "rounds": options.rounds,
        "exact": target.proof.exact,
        "ms": {
            name: {"median": median, "least": least, "p95": high}
            for name, median, least, high in cast("list[tuple[str, float, float, float]]", rows)
        },
        "bars": judged,
    }
