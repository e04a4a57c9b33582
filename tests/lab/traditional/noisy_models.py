"""Two small models of which one is sometimes right about the other, and whether texts have a model's distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chisquare

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.traditional.speculation import probabilities
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

UNLIKELY = 1e-6


def checkpoint(folder: Path, noise: float) -> Path:
    """The same random model, with noise in its head: sometimes right about the other, sometimes wrong."""
    model = tiny_llama(max_position_embeddings=512)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        head = model.get_parameter("lm_head.weight")
        head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(5)), alpha=noise)
    return save(folder, model, byte_level_tokenizer())


def packed(folder: Path) -> PackedModel:
    return PackedModel(load_target(folder, dtype="float32", attn_implementation=register()).model)


def pairs_due(
    model: PackedModel, prompt: Sequence[int], params: SamplingParams
) -> dict[tuple[int, int], float]:
    """Probability of each pair of first tokens, from the target alone."""

    def behind(context: Sequence[int]) -> dict[int, float]:
        p = probabilities(to_numpy(model.forward([ModelInput(model.new_kv(), [*context])]))[0], params)
        return {int(token): float(p[token]) for token in np.flatnonzero(p)}

    return {
        (first, second): share * other
        for first, share in behind(prompt).items()
        for second, other in behind([*prompt, first]).items()
    }


def fits(texts: Sequence[tuple[int, ...]], due: dict[tuple[int, int], float]) -> float:
    """p-value of how often each pair of first tokens came."""
    seen = Counter((text[0], text[1]) for text in texts)
    assert set(seen) <= set(due)
    common = [pair for pair in due if len(texts) * due[pair] >= 5.0]
    counts = [seen[pair] for pair in common]
    expected = [len(texts) * due[pair] for pair in common]
    counts.append(len(texts) - sum(counts))
    expected.append(max(5.0, len(texts) - sum(expected)))
    scale = len(texts) / sum(expected)
    return float(chisquare(counts, [scale * one for one in expected]).pvalue)
