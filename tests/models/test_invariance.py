"""The proof holds where kernels agree, and fails, with its reasons, where they do not."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.invariance.product_probe import (
    COUNTS,
    Product,
    Products,
    attention_shapes,
    compare,
    compare_attention,
    row_range,
)
from flexspec_mq.models.invariance.proof import Proof, prove
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.load import load_target
from flexspec_mq.models.packed import PackedModel, register
from flexspec_mq.models.runner import ModelInput
from tests.models.tiny_packed import DTYPES, HEAD_SIZE, HEADS, packed, tiny


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


def test_products_that_are_given_too_few_rows_are_found() -> None:
    """float32: fewer than 16 rows take another kernel on every processor that we know."""
    model = tiny("grouped", torch.float32)
    few = prove(PackedModel(model, replace(PackedModel(model).shapes, min_rows=1)))
    assert not few.exact
    assert few.differing > 0
    assert prove(PackedModel(model)).exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_compared_over_the_rows_that_may_be(dtype: str) -> None:
    like = torch.empty(0, dtype=DTYPES[dtype])
    model = torch.nn.Sequential(torch.nn.Linear(1536, 576), torch.nn.Linear(1536, 576, bias=False))
    products = Products.of_linear_layers(model)
    assert products.kinds == ((1536, 576, False), (1536, 576, True))
    rows, differing = compare(products, like, 1, None, 0)
    assert 0 < differing < rows  # no kernel serves all numbers of rows
    found = row_range(products, like)
    assert found is not None
    least, most = found
    assert least <= 32 <= (most or 32)
    assert compare(products, like, least, most, 0)[1] == 0
    if least > 1:
        fewer = COUNTS[COUNTS.index(least) - 1]
        assert compare(products, like, fewer, most, 0)[1] > 0
    if most is not None:
        assert compare(products, like, least, None, 0)[1] > 0


def steps(*edges: int) -> Callable[[torch.Tensor, torch.Tensor | None], Product]:
    """Products that take another kernel above each of these numbers of rows."""
    return lambda _weight, _bias: lambda x: x + sum(len(x) > edge for edge in edges)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((), (1, None)),
        ((1,), (2, None)),
        ((15,), (16, None)),
        ((32,), (1, 32)),
        ((32, 36), (1, 32)),
        ((1, 64), (2, 64)),
        ((31,), (32, None)),
        ((24,), (31, None)),
        ((16, 36, 128), (17, 36)),
        (tuple(COUNTS), (32, 32)),
        ((1, 8, 16, 24, 31, 33), (32, 33)),
    ],
)
def test_the_range_is_the_first_that_is_long_enough(
    edges: tuple[int, ...], expected: tuple[int, int | None] | None
) -> None:
    assert row_range(Products(((8, 8, False),), steps(*edges)), torch.empty(0)) == expected


def test_a_kernel_that_looks_at_a_rows_place_is_found() -> None:
    def make(_weight: torch.Tensor, _bias: torch.Tensor | None) -> Product:
        return lambda x: x + torch.arange(len(x))[:, None] % 2

    assert compare(Products(((8, 8, False),), make), torch.empty(0), 1, None, 0)[1] > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_as_long_as_zeros_behind_them_change_nothing(dtype: str) -> None:
    like = torch.empty(0, dtype=DTYPES[dtype])
    rows, block = attention_shapes(like, HEAD_SIZE, 1024, 64)
    assert block in (64, 128, 256, 512, 1024)
    for seed in range(3):
        assert compare_attention(like, HEAD_SIZE, rows, block, 64, seed)[1] == 0
    assert block == 1024 or compare_attention(like, HEAD_SIZE, rows, 2 * block, 64, 0)[1] > 0
    assert rows == 3 or compare_attention(like, HEAD_SIZE, 1, block, 64, 0)[1] > 0, "it is never less than 3"
    assert attention_shapes(like, HEAD_SIZE, 128, 64)[1] == min(block, 128)


def test_sums_that_zeros_change_break_the_proof() -> None:
    """float32 over 512 positions is such a sum on every processor that we know."""
    model = packed("grouped", torch.float32)
    assert prove(model).exact
    longer = PackedModel(model.model, replace(model.shapes, value_block=512))
    assert not prove(longer).exact


class Unsteady(PackedModel):
    """Adds to every row as many steps as there are rows: what a kernel does that looks at the shape."""

    step = 0.0

    def forward(self, inputs: Sequence[ModelInput]) -> torch.Tensor:
        total = sum(len(model_input.tokens) for model_input in inputs)
        rows = super().forward(inputs)
        return rows + self.step * total * torch.arange(rows.shape[1])


@pytest.mark.parametrize(("step", "least", "most"), [(1e-3, 0.001, 1.0), (1e-6, 0.0, 0.05)])
def test_a_forward_that_looks_at_its_neighbours_is_found(step: float, least: float, most: float) -> None:
    """Also where the differences are too small to change a token."""
    model = Unsteady(packed("grouped", torch.float32).model)
    model.step = step
    proof = prove(model)
    assert not proof.exact
    assert proof.differing > 50
    assert least <= proof.flip_rate <= most
    assert proof.word == "exact up to ties"
    numbers = re.fullmatch(r"exact up to ties: (\d+) of (\d+) rows .* [\d.]+% of the tokens .*", str(proof))
    assert numbers is not None
    assert (int(numbers[1]), int(numbers[2])) == (proof.differing, proof.rows)


def test_what_is_said_of_an_exact_one() -> None:
    assert str(Proof(True, 138, 0, 0.0, 2.04)) == "exact: 138 rows in other shapes had the same bits (2.0 s)"


@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_default_model_passes_padded_and_fails_unpadded() -> None:
    """By matrix-vector kernels, softmax of short rows, and sums whose blocks depend on the length: in two layers."""
    model: Any = load_target(default_model_path(), dtype="bfloat16", attn_implementation=register()).model
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    good = prove(PackedModel(model))
    assert good.exact, str(good)
    bad = prove(
        PackedModel(
            model, Shapes(min_rows=1, max_rows=None, attention_rows=1, context_grain=1, value_block=10**9)
        )
    )
    assert not bad.exact
    assert bad.differing > 0
