"""The proof holds where kernels agree, and fails, with its reasons, where they do not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from flexspec_mq.models.attention import Shapes, register
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.invariance import Proof, prove
from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel
from flexspec_mq.models.product_probe import compare, compare_padded, kinds_of, largest_block, least_rows
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_packed import HEAD_SIZE, HEADS, packed, tiny

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_models_are_exact(heads: str, dtype: str) -> None:
    seen: list[float] = []
    proof = prove(packed(heads, DTYPES[dtype]), progress=seen.append)
    assert proof.exact, str(proof)
    assert (proof.differing, proof.flip_rate, proof.word) == (0, 0.0, "exact")
    assert proof.rows > 100
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_products_too_narrow_for_two_rows_are_found() -> None:
    """Keys and values 16 wide: two rows take another kernel, which shows in the logits of one text in many."""
    narrow = tiny("grouped", torch.bfloat16, head_size=8)
    two = prove(PackedModel(narrow, replace(Shapes.for_dtype(torch.bfloat16), min_rows=2)))
    assert not two.exact
    assert two.differing > 0
    padded = PackedModel(narrow)
    assert padded.shapes.min_rows == 8
    assert prove(padded).exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_compared_from_the_least_number_of_rows_on(dtype: str) -> None:
    like = torch.empty(0, dtype=DTYPES[dtype])
    model = torch.nn.Sequential(torch.nn.Linear(1536, 576), torch.nn.Linear(1536, 576, bias=False))
    assert kinds_of(model) == [(1536, 576, False), (1536, 576, True)]
    rows, differing = compare(model, like, 1, 0)
    assert 0 < differing < rows  # a single row takes a matrix-vector kernel
    least = least_rows(model, like, 2)
    assert compare(model, like, least, 0)[1] == 0
    assert least == 2 or compare(model, like, least // 2, 0)[1] > 0
    assert least_rows(model, like, 16) == max(least, 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_as_long_as_zeros_behind_them_change_nothing(dtype: str) -> None:
    like = torch.empty(0, dtype=DTYPES[dtype])
    block = largest_block(like, HEAD_SIZE, 1024, 64)
    assert block in (64, 128, 256, 512, 1024)
    for seed in range(3):
        assert block == 64 or compare_padded(like, HEAD_SIZE, block, 64, seed)[1] == 0
        assert block == 1024 or compare_padded(like, HEAD_SIZE, 2 * block, 64, seed)[1] > 0
    assert largest_block(like, HEAD_SIZE, 128, 64) == min(block, 128)


def test_sums_that_zeros_change_break_the_proof() -> None:
    """float32 over 512 positions is such a sum on every processor that we know."""
    model = packed("grouped", torch.float32)
    assert prove(model).exact
    longer = PackedModel(model.model, replace(model.shapes, value_block=512))
    assert not prove(longer).exact


class Unsteady(PackedModel):
    """Adds to every row as many steps as there are rows: what a kernel does that looks at the shape."""

    step = 0.0

    def forward(self, inputs: list[ModelInput]) -> torch.Tensor:  # type: ignore[override]
        total = sum(len(model_input.tokens) for model_input in inputs)
        rows = super().forward(inputs)
        return rows + self.step * total * torch.arange(rows.shape[1])


def test_a_forward_that_looks_at_its_neighbours_is_found() -> None:
    model = Unsteady(packed("grouped", torch.float32).model)
    model.step = 1e-3
    proof = prove(model)
    assert not proof.exact
    assert proof.differing > 50
    assert proof.flip_rate > 0.0
    assert proof.word == "exact up to ties"
    said = re.fullmatch(
        r"exact up to ties: (\d+) of (\d+) rows .* ([\d.]+)% of the tokens changed .*", str(proof)
    )
    assert said is not None
    assert (int(said[1]), int(said[2])) == (proof.differing, proof.rows)


def test_differences_too_small_to_change_a_token_still_break_the_proof() -> None:
    model = Unsteady(packed("grouped", torch.float32).model)
    model.step = 1e-6
    proof = prove(model)
    assert not proof.exact
    assert proof.flip_rate < 0.05


def test_what_is_said_of_an_exact_one() -> None:
    assert str(Proof(True, 138, 0, 0.0, 2.04)) == "exact: 138 rows in other shapes had the same bits (2.0 s)"


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_default_model_passes_padded_and_fails_unpadded(dtype: str) -> None:
    model: Any = load_target(default_model_path(), dtype=dtype, attn_implementation=register()).model
    good = prove(PackedModel(model))
    assert good.exact, str(good)
    # Matrix-vector kernels, softmax of short rows, and sums whose blocks depend on the length; four layers show it.
    model.model.layers = model.model.layers[:4]
    model.config.num_hidden_layers = 4
    bad = prove(PackedModel(model, Shapes(min_rows=1, context_grain=1, value_block=10**9)))
    assert not bad.exact
    assert bad.differing > 0
