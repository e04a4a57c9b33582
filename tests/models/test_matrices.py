"""Matrices of 8 and 4 bits against plain products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.models.matrices import FourBits, SteadyEightBits, works


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([16, 48, 320]),
    width=st.sampled_from([32, 64, 160]),
    count=st.sampled_from([1, 2, 5, 40]),
    seed=st.integers(0, 1000),
)
def test_few_bits_are_near(rows: int, width: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, x = (
        torch.randn((rows, width), generator=generator),
        torch.randn((count, width), generator=generator),
    )
    bias = torch.randn(rows, generator=generator)
    x = x.to(torch.bfloat16)
    wanted = x.float() @ weight.T + bias
    assert distance(SteadyEightBits(weight, bias)(x).float(), wanted) < 0.02
    assert distance(FourBits(weight, bias)(x).float(), wanted) < 0.15


def test_a_kernel_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: object) -> torch.Tensor:
        raise NotImplementedError

    assert works("int8")
    monkeypatch.setattr(torch, "_weight_int8pack_mm", absent)
    assert not works("int8")


@pytest.mark.parametrize("width", [8, 24, 40])
def test_weights_narrower_than_a_vector_of_the_kernel_do_without_it(width: int) -> None:
    """It read past their end: a draft of hidden size 8 ended the process."""
    weight, x = torch.randn(16, width).bfloat16(), torch.randn(3, width).bfloat16()
    assert distance(SteadyEightBits(weight)(x).float(), x.float() @ weight.float().T) < 0.02
