"""Padding that makes a forward of one row quicker, and changes no bit of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flexspec_mq.models.invariance import proof_cache
from flexspec_mq.models.invariance.proof_cache import quickest
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_packed import tiny


class Paced(PackedModel):
    """Forwards of one row take as long as somebody says for their least rows, on a clock of its own."""

    seconds: dict[int, float]
    now = 0.0

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        if inputs[0].rows:
            self.now += self.seconds[self.shapes.min_rows]
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("shapes", "seconds", "least"),
    [
        # What is less than the model needs is not asked for, nor more than 8.
        ((2, None), {2: 0.03, 3: 0.03, 4: 0.024, 5: 0.025, 6: 0.03, 7: 0.03, 8: 0.03}, 4),
        ((6, None), {6: 0.03, 7: 0.0295, 8: 0.03}, 6),
        ((16, None), {}, 16),
        ((8, None), {}, 8),
        ((2, 2), {}, 2),
    ],
    ids=["quicker", "a difference by chance", "more than the most", "the most", "no choice"],
)
def test_the_least_rows_that_are_quick_are_taken(
    shapes: tuple[int, int | None], seconds: dict[int, float], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Paced(tiny("grouped", torch.bfloat16))
    model.seconds = seconds
    given = model.shapes = replace(model.shapes, min_rows=shapes[0], max_rows=shapes[1])
    monkeypatch.setattr(proof_cache, "time", SimpleNamespace(perf_counter=lambda: model.now))
    assert quickest(model) == replace(given, min_rows=least)
    assert model.shapes == given
    monkeypatch.setattr(model, "seconds", {})
    if seconds:
        with pytest.raises(KeyError):
            quickest(model)
        assert model.shapes == given  # a failure leaves it as it was


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_padded_rows_have_the_same_bits(dtype: torch.dtype) -> None:
    model = PackedModel(tiny("grouped", dtype))
    given = model.shapes
    ids, results = list(range(3, 40)), []
    for least in range(given.min_rows, max(given.min_rows, 8) + 1):
        model.shapes = replace(given, min_rows=least)
        kv = model.new_kv()
        model.forward([ModelInput(kv, ids, 0)])
        results.append(torch.cat([model.forward([ModelInput(kv, [token], 1)]) for token in (7, 9)]))
    assert all(torch.equal(rows, results[0]) for rows in results)
