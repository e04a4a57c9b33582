"""Padding that makes a forward of one row quicker, and changes no bit of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flexspec_mq.models.invariance import proof_cache as module
from flexspec_mq.models.invariance.proof_cache import quickest
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_packed import tiny


class Paced:
    """A model whose forwards take as long as somebody says for their least rows, on a clock of its own."""

    def __init__(self, model: PackedModel, seconds: dict[int, float]) -> None:
        self._model = model
        self._seconds = seconds
        self.shapes = replace(model.shapes, min_rows=2, max_rows=None)
        self.asked: list[int] = []
        self.now = 0.0

    def new_kv(self) -> SessionKV:
        return self._model.new_kv()

    def forward(self, inputs: list[ModelInput]) -> torch.Tensor:
        if inputs[0].rows:
            self.asked.append(self.shapes.min_rows)
            self.now += self._seconds.get(self.shapes.min_rows, 0.03)
            if self._seconds.get(0):
                raise RuntimeError("out of memory")
        return self._model.forward(inputs)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], Paced]:
    model = PackedModel(tiny("grouped", torch.bfloat16))

    def make(seconds: dict[int, float]) -> Paced:
        made = Paced(model, seconds)
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: made.now))
        return made

    return make


def test_the_least_rows_that_are_quick_are_taken(paced: Callable[[dict[int, float]], Paced]) -> None:
    model = paced({4: 0.024, 5: 0.025})
    given = model.shapes
    assert quickest(model) == replace(given, min_rows=4)  # type: ignore[arg-type]
    assert model.shapes == given
    assert set(model.asked) == {2, 3, 4, 5, 6, 7, 8}, "what is less than the model needs is not asked for"


def test_where_it_makes_no_difference_nothing_is_padded(paced: Callable[[dict[int, float]], Paced]) -> None:
    model = paced({3: 0.0295})
    assert quickest(model) == model.shapes  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [(16, None), (8, None), (2, 2)])
def test_what_leaves_no_choice_is_not_timed(
    shapes: tuple[int, int | None], paced: Callable[[dict[int, float]], Paced]
) -> None:
    model = paced({})
    model.shapes = replace(model.shapes, min_rows=shapes[0], max_rows=shapes[1])
    assert quickest(model) == model.shapes  # type: ignore[arg-type]
    assert model.asked == []


def test_a_failure_leaves_the_model_as_it_was(paced: Callable[[dict[int, float]], Paced]) -> None:
    model = paced({0: 1.0})
    given = model.shapes
    with pytest.raises(RuntimeError, match="memory"):
        quickest(model)  # type: ignore[arg-type]
    assert model.shapes == given


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_padded_rows_have_the_same_bits(dtype: torch.dtype) -> None:
    model = PackedModel(tiny("grouped", dtype))
    given = model.shapes
    ids, found = list(range(3, 40)), []
    for least in range(given.min_rows, max(given.min_rows, 8) + 1):
        model.shapes = replace(given, min_rows=least)
        kv = model.new_kv()
        model.forward([ModelInput(kv, ids, 0)])
        found.append(torch.cat([model.forward([ModelInput(kv, [token], 1)]) for token in (7, 9)]))
    assert all(torch.equal(one, found[0]) for one in found)
    assert quickest(model).context_grain == given.context_grain
