"""Matrices of 8-bit integers: near the plain products, and a row's bits its own, by arithmetic."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.models.compact import integers
from flexspec_mq.models.compact.integers import Integers, KernelOrder, pack, packed_bytes, round_weights

WIDTHS = st.sampled_from([8, 24, 40, 64, 96, 576])


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(rows: int, width: int, seed: int, outliers: float = 0.0) -> torch.Tensor:
    """Numbers of which a few are far larger than the others, as hidden states have them."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn((rows, width), generator=generator)
    numbers[:, torch.randperm(width, generator=generator)[: max(1, width // 50)]] *= 1 + outliers
    return numbers


@settings(max_examples=30)
@given(
    rows=st.sampled_from([1, 16, 48, 321]),
    width=WIDTHS,
    count=st.sampled_from([1, 2, 5, 40]),
    outliers=st.sampled_from([0.0, 30.0]),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_products_are_near(
    rows: int, width: int, count: int, outliers: float, biased: bool, seed: int
) -> None:
    """Also where a few numbers of each row are thirty times the others, of which plain rounding leaves nothing."""
    weight, x = drawn(rows, width, seed), drawn(count, width, seed + 1, outliers).to(torch.bfloat16)
    bias = drawn(1, rows, seed + 2)[0] if biased else None
    found = Integers.rounded(weight, bias)(x)
    wanted = torch.nn.functional.linear(x.float(), weight, bias)
    assert found.dtype == torch.float32
    norms = x.float().norm(dim=1, keepdim=True) * weight.norm(dim=1)
    assert ((found.float() - wanted).abs() <= 0.02 * norms + 0.01 * wanted.abs()).all()


@settings(max_examples=20)
@given(
    rows=st.sampled_from([16, 321]),
    width=WIDTHS,
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
)
@pytest.mark.usefixtures("threads")
def test_a_row_has_its_bits_in_any_company(rows: int, width: int, cuts: list[int], seed: int) -> None:
    x = drawn(sum(cuts), width, seed, 30.0).to(torch.bfloat16)
    x[0] = 0.0
    matrix, results = Integers.rounded(drawn(rows, width, seed + 1), torch.ones(rows)), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(matrix(x))
        results.append(torch.cat([matrix(part) for part in torch.split(x, cuts)]))
        results.append(matrix(x.roll(1, 0)).roll(-1, 0))
    assert all(torch.equal(result, results[0]) for result in results)
    assert torch.equal(results[0][0], torch.ones(rows))


@settings(max_examples=20)
@given(width=WIDTHS, seed=st.integers(0, 1000))
def test_all_in_front_of_the_last_rounding_is_whole_numbers(width: int, seed: int) -> None:
    """So no order of sums changes a bit: it is computed here in integers without end."""
    weight, x = drawn(33, width, seed), drawn(4, width, seed + 1, 30.0)
    codes, scales = round_weights(weight)
    found = Integers(width, pack(codes), scales)(x)
    block = min(width & -width, 64)
    signs = [[(-1) ** (i & j).bit_count() for j in range(block)] for i in range(block)]
    for row, wanted in zip(x, found, strict=True):
        largest = row.abs().max()
        fine = [int(n) for n in (row * (8191.0 / largest)).round().tolist()]
        spread = [
            sum(sign * n for sign, n in zip(line, fine[begin : begin + block], strict=True))
            for begin in range(0, width, block)
            for line in signs
        ]
        most = max(1, *map(abs, spread))
        share = torch.tensor(127.0) / torch.tensor(float(most))
        unsigned = ((torch.tensor(spread, dtype=torch.float32) * share) + 128.5).int().tolist()
        sums = [sum((u - 128) * c for u, c in zip(unsigned, line, strict=True)) for line in codes.tolist()]
        exact = torch.tensor(sums, dtype=torch.float64) * scales.double()
        exact *= float(largest) * most / (127.0 * 8191.0 * block)
        assert torch.allclose(wanted.double(), exact, rtol=1e-6, atol=1e-12)


def test_codes_are_read_again_as_they_lie_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a matrix in parts, the last of which is smaller."""
    monkeypatch.setattr(integers, "_MOST_ROWS", 40)
    weight, x = drawn(107, 96, 1), drawn(3, 96, 2)
    codes, scales = round_weights(weight)
    stored = torch.cat([packed_bytes(part) for part in pack(codes)])
    order = KernelOrder()
    assert order.nbytes(107, 96) == len(stored)
    read = Integers(96, order.read(107, 96, stored), scales)
    assert len(pack(codes)) == 3
    monkeypatch.setattr(integers, "_MOST_ROWS", 1000)
    assert torch.equal(read(x), Integers(96, pack(codes), scales)(x))
    digests = {KernelOrder().digest([size]) for size in ((107, 96), (96, 107), (107, 96))}
    assert len(digests) == 2


@pytest.mark.skipif(
    "avx512_vnni" not in Path("/proc/cpuinfo").read_text("utf-8"), reason="asks a processor that has VNNI"
)
@pytest.mark.parametrize(("instructions", "told"), [("ALL", ""), ("AVX512_CORE", "in too few bits")])
def test_a_processor_that_adds_in_too_few_bits_is_found_out(instructions: str, told: str) -> None:
    script = "from flexspec_mq.models.compact.integers import check_integers; check_integers()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (told in done.stderr) if told else (done.returncode, done.stderr) == (0, "")
    assert bool(told) == bool(done.returncode)
