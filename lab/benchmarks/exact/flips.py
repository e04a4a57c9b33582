"""How often other shapes change a token where nothing keeps the kernels the same.

A text is written by the reference (bfloat16, two identical texts, each new token read with the one before it). Along
it, the same positions are read by transformers' eager attention with one row at a time, by transformers in pieces of
five tokens as a verification would, and by the worker's own forward one token at a time. Logits are compared by their
bits and by the token that they give, greedy and at temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput, to_numpy
from lab.benchmarks.exact.dice import Dice, choose
from lab.benchmarks.exact.reference import Reference, Text

_PIECE = 5

Rows = npt.NDArray[np.float32]


@dataclass(slots=True)
class Flips:
    """Differences to the reference.

    Attributes:
        positions: compared.
        bits: of these, with other bits in some logit.
        greedy, drawn: of these, with another token at temperature 0 and 1.
    """

    positions: int = 0
    bits: int = 0
    greedy: int = 0
    drawn: int = 0

    def add(self, reference: Rows, other: Rows, position: int, seed: int) -> None:
        """Compare one position's logits."""
        greedy, drawn = Dice(0.0, 0, 1.0, 0), Dice(1.0, 0, 1.0, seed)
        self.positions += 1
        self.bits += not np.array_equal(reference, other)
        self.greedy += choose(reference, greedy, position) != choose(other, greedy, position)
        self.drawn += choose(reference, drawn, position) != choose(other, drawn, position)

    def summary(self) -> dict[str, Any]:
        """Counts and rates."""
        rates = {f"{name}_rate": getattr(self, name) / max(1, self.positions) for name in ("greedy", "drawn")}
        return {**asdict(self), **rates}


def count(
    folder: str, prompts: Sequence[Sequence[int]], length: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compare `length` positions behind each prompt; half of the texts are greedy, half drawn at temperature 1."""
    reference = Reference(folder, "bfloat16")
    model = PackedModel(load_target(folder, dtype="bfloat16", attn_implementation=register()).model)
    found = {"eager, one row": Flips(), "eager, pieces of 5": Flips(), "ours, one token": Flips()}
    for number, prompt in enumerate(prompts):
        text = Text(number, tuple(prompt), Dice(float(number % 2), 0, 1.0, seed), length, ())
        tokens = reference.write(text).tokens
        rows = _steady(reference, prompt, tokens)
        others = {
            "eager, one row": _transformers(reference, prompt, tokens, 1, 1),
            "eager, pieces of 5": _transformers(reference, prompt, tokens, 1, _PIECE),
            "ours, one token": _ours(model, prompt, tokens),
        }
        for name, other in others.items():
            for index, (a, b) in enumerate(zip(rows, other, strict=True)):
                found[name].add(a, b, len(prompt) + 1 + index, seed)
        say(f"flips: {number + 1} of {len(prompts)} texts")
    return {name: flips.summary() for name, flips in found.items()}


def _steady(reference: Reference, prompt: Sequence[int], tokens: Sequence[int]) -> list[Rows]:
    """Logits behind each token, read as the reference does when it writes."""
    cache, _ = reference.read([prompt] * reference.copies)
    pairs = pairwise([*prompt[-1:], *tokens])
    return [reference.next(cache, [pair] * reference.copies)[0] for pair in pairs]


def _transformers(
    reference: Reference, prompt: Sequence[int], tokens: Sequence[int], copies: int, piece: int
) -> list[Rows]:
    """Logits behind each token, read `piece` at a time in `copies` identical rows."""
    cache, _ = reference.read([prompt] * copies)
    rows: list[Rows] = []
    for start in range(0, len(tokens), piece):
        rows.extend(reference.extend(cache, [tokens[start : start + piece]] * copies)[0])
    return rows


def _ours(model: PackedModel, prompt: Sequence[int], tokens: Sequence[int]) -> list[Rows]:
    kv = model.new_kv()
    model.forward([ModelInput(kv, prompt, 0)])
    return [to_numpy(model.forward([ModelInput(kv, [token])]))[0] for token in tokens]
