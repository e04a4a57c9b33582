"""Does `choose` draw from the target's own distribution? Pearson's χ² over many seeds at fixed prefixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks.exact.dice import Dice, distribution

_LEAST_EXPECTED = 5.0
_SETTINGS = {"T 1": (1.0, 0, 1.0), "T 0.7, top-p 0.95": (0.7, 0, 0.95), "T 1, top-k 50": (1.0, 50, 1.0)}


def compare(
    folder: str, prompts: Sequence[Sequence[int]], seeds: int, first_seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Draw the token behind each prompt with `seeds` seeds and compare counts with the softmax in float64.

    Returns:
        For each prompt and setting the p-value, and how many bins there were.
    """
    model = PackedModel(load_target(folder, dtype="bfloat16", attn_implementation=register()).model)
    p_values: dict[str, float] = {}
    bins: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        # A word into the answer, so that the next token is open.
        logits = to_numpy(model.forward([ModelInput(model.new_kv(), [*prompt, 504])]))[0]
        for name, (temperature, top_k, top_p) in _SETTINGS.items():
            expected = distribution(logits, Dice(temperature, top_k, top_p, 0)) * seeds
            counts = np.zeros(len(logits))
            for seed in range(first_seed, first_seed + seeds):
                params = SamplingParams(temperature, top_k, top_p, seed)
                counts[choose(logits, params, len(prompt) + 1)] += 1
            key = f"prefix {number}, {name}"
            p_values[key], bins[key] = chi_squared(counts, expected)
            say(f"draws: {key}: p = {p_values[key]:.3g} over {bins[key]} bins")
    return {"seeds": seeds, "p_values": p_values, "bins": bins}


def chi_squared(counts: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> tuple[float, int]:
    """p-value and number of bins; what expects fewer than 5 is one bin together.

    The tail of χ² with k degrees of freedom is the regularised upper incomplete gamma function Q(k/2, χ²/2). A
    count where nothing is expected gives 0; a single bin, of which nothing can be learnt, gives 1.
    """
    if counts[expected == 0.0].any():
        return 0.0, int((expected > 0.0).sum())
    large = expected >= _LEAST_EXPECTED
    seen = np.append(counts[large], counts[~large].sum())
    due = np.append(expected[large], expected[~large].sum())
    if due[-1] < _LEAST_EXPECTED and len(due) > 1:  # too few even together: they join the smallest bin
        smallest = int(np.argmin(due[:-1]))
        seen[smallest] += seen[-1]
        due[smallest] += due[-1]
        seen, due = seen[:-1], due[:-1]
    if len(due) < 2:
        return 1.0, len(due)
    statistic = float(((seen - due) ** 2 / due).sum())
    freedom = torch.tensor((len(due) - 1) / 2, dtype=torch.float64)
    tail = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    return float(tail), len(due)
