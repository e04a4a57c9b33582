"""Schedule of the training: budget, learning rate, loss, and the order of rows. All pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.draft.cache import batches
from training.draft.rows import TextRows

Lengths = npt.NDArray[np.int64]

SORT_SLAB = 256
"""Rows that are sorted by length together, so that little is padded."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train a draft.

    Attributes:
        n: Backbone layers.
        start: The base's layers that the trained blocks start as copies of, bottom up; see ``start_layers``.
        max_steps: Optimizer steps; None for no limit. At least one limit must be given.
        max_seconds: Time for collecting and training together, over all resumptions; None for no limit.
        step_tokens: Answer tokens per optimizer step, at most.
        learning_rate: Peak, reached after ``warmup_steps``; falls to ``final_rate`` of it along a cosine.
        warmup_steps: Steps of linear rise.
        final_rate: Share of the peak at the end.
        temperatures: At which the loss compares both models, one step after another.
        hybrid_from: Share of the budget after which the loss is KL and TV; before, KL alone.
        common_ids: Ids of the LM head that are always in while it is sampled; 0 to never sample it.
        extra_ids: Others drawn anew in each step.
        first_rows: Rows in the first pass; each later pass takes twice as many, as far as there are rows, so
            that training starts before all states are collected.
        rank: rank of LoRA on the blocks' matrices, which is trained instead of these; 0 trains them whole.
        seed: seed of the order of rows, of drawn ids and of LoRA's first matrices.
        device: torch device of both models.
    """

    n: int
    start: tuple[int, ...]
    max_steps: int | None = None
    max_seconds: float | None = None
    step_tokens: int = 1024
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    final_rate: float = 0.02
    temperatures: tuple[float, ...] = (1.0,)
    hybrid_from: float = 0.5
    common_ids: int = 8192
    extra_ids: int = 2048
    first_rows: int = 512
    rank: int = 0
    seed: int = 0
    device: str = "cpu"

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        shares = [0.0]
        if self.max_steps is not None:
            shares.append(step / self.max_steps)
        if self.max_seconds is not None:
            shares.append(seconds / self.max_seconds)
        return min(1.0, max(shares))

    def rate(self, step: int, progress: float) -> float:
        """Learning rate of a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * cosine)


def row_order(text: TextRows, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on, shuffled over prompts and temperatures, and rows held out."""
    held = text.is_held_out()
    order = np.random.default_rng(seed).permutation(len(text))
    return [int(row) for row in order if not held[row]], [int(row) for row in np.flatnonzero(held)]


def pass_batches(
    rows: Sequence[int], length: Lengths, counted: Lengths, step_tokens: int, key: tuple[int, int]
) -> list[list[int]]:
    """A pass over rows: every row once, in batches of rows of similar length, in a random order.

    Args:
        rows: Indices of rows.
        length: Tokens of each row.
        counted: Tokens of each row that count in a step.
        step_tokens: Tokens that count in a batch, at most.
        key: Seed and number of the pass; nothing else decides the order.
    """
    rng = np.random.default_rng(key)
    shuffled = rng.permutation(np.asarray(rows, dtype=np.int64))
    batched: list[list[int]] = []
    for first in range(0, len(shuffled), SORT_SLAB):
        slab = sorted(
            (int(row) for row in shuffled[first : first + SORT_SLAB]), key=lambda row: int(length[row])
        )
        batched += batches(slab, [int(counted[row]) for row in slab], step_tokens)
    return [batched[int(i)] for i in rng.permutation(len(batched))]
