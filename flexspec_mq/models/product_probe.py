"""Do matrix products sum in one order, however many rows and zeros share them? Asked with sums that cancel.

In half precision two orders of a sum mostly round to the same bits, so ordinary numbers find another kernel once in
thousands of rows. Here every product is a sum of pairs a·w + (-a)·w in a random order: it should be 0, and what is
left of it is nothing but rounding, which another order changes nearly always.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTS = (*range(1, 10), 15, 16, 17, 24, 31, 32, 33, 48, 63, 64)
"""Rows; those in between take the same kernels as far as we know."""
_TOP = 65
_FINEST_PADDING = 16
"""Positions; contexts that are padded less, or not at all, are compared in these steps."""
_MOST_PADDING = 32
"""Rows that a product is padded to at most."""

Kind = tuple[int, int, bool]
"""Width of the input, width of the output, whether there is a bias."""


def kinds_of(model: torch.nn.Module) -> list[Kind]:
    """The kinds of linear layers that a model has, each once."""
    layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    return sorted({(layer.in_features, layer.out_features, layer.bias is not None) for layer in layers})


@torch.inference_mode()
def compare(model: torch.nn.Module, like: torch.Tensor, least: int, seed: int) -> tuple[int, int]:
    """Compare products of fewer rows with those of 65.

    Args:
        model: whose linear layers are imitated.
        like: a tensor on the device and in the dtype of the model.
        least: rows that a product has at least.
        seed: of the numbers.

    Returns:
        Rows compared, and rows with other bits.
    """
    rows = differing = 0
    for kind in kinds_of(model):
        for found in _differences(kind, like, least, torch.Generator().manual_seed(seed)):
            rows += len(found)
            differing += int(found.sum())
    return rows, differing


def least_rows(model: torch.nn.Module, like: torch.Tensor, at_least: int) -> int:
    """The rows that a product must have for its bits not to depend on how many there are, on this machine.

    Args:
        model: whose linear layers are imitated.
        like: a tensor on the device and in the dtype of the model.
        at_least: the answer where fewer rows would do, and where no number of rows is enough: the proof tells then.
    """
    return _least_rows(tuple(kinds_of(model)), like.dtype, like.device, torch.get_num_threads(), at_least)


@lru_cache(maxsize=64)
@torch.inference_mode()
def _least_rows(
    kinds: tuple[Kind, ...], dtype: torch.dtype, device: torch.device, _threads: int, at_least: int
) -> int:
    like = torch.empty(0, dtype=dtype, device=device)
    worst = 0
    for kind in kinds:
        for found in _differences(kind, like, at_least, torch.Generator().manual_seed(0)):
            if found.any():
                worst = max(worst, len(found))
    found_at = max(at_least, 1 << worst.bit_length())
    return found_at if found_at <= _MOST_PADDING else at_least


@torch.inference_mode()
def compare_padded(like: torch.Tensor, size: int, block: int, grain: int, seed: int) -> tuple[int, int]:
    """Compare sums over some positions with the same sums over more positions, the rest of which are zeros.

    That is what attention does with its weights and values when a context is padded: a kernel that cuts a sum into
    pieces by its length gives other bits then.

    Args:
        like: a tensor on the device and in the dtype of the model.
        size: of a head.
        block: positions that one product sums at most.
        grain: contexts are padded to multiples of it.
        seed: of the numbers.

    Returns:
        Rows compared, and rows with other bits.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = differing = 0
    grain = max(grain, _FINEST_PADDING)
    for positions in range(grain, block, grain):
        order = torch.randperm(positions, generator=generator)
        half = torch.randn((1, _TOP, positions // 2), generator=generator)
        weights = like.new_zeros((1, _TOP, block))
        weights[:, :, :positions] = torch.cat((half, -half), dim=2)[:, :, order].to(like)
        half = torch.randn((1, positions // 2, size), generator=generator)
        values = like.new_zeros((1, block, size))
        values[:, :positions] = torch.cat((half, half), dim=1)[:, order].to(like)
        alone = torch.bmm(weights[:, :, :positions], values[:, :positions])
        for padded in range(positions + grain, block + 1, grain):
            found = torch.bmm(weights[:, :, :padded], values[:, :padded]) != alone
            rows += _TOP
            differing += int(found.any(dim=-1).sum())
    return rows, differing


def largest_block(like: torch.Tensor, size: int, at_most: int, grain: int) -> int:
    """The positions that one product may sum so that padding them changes no bit, on this machine.

    Args:
        like: a tensor on the device and in the dtype of the model.
        size: of a head.
        at_most: the answer where nothing changes; it is halved until that holds.
        grain: contexts are padded to multiples of it; the least answer.
    """
    return _largest_block(like.dtype, like.device, torch.get_num_threads(), size, at_most, grain)


@lru_cache(maxsize=64)
def _largest_block(
    dtype: torch.dtype, device: torch.device, _threads: int, size: int, at_most: int, grain: int
) -> int:
    like, block = torch.empty(0, dtype=dtype, device=device), at_most
    while block > grain and compare_padded(like, size, block, grain, 0)[1]:
        block = max(grain, block // 2)
    return block


def _differences(
    kind: Kind, like: torch.Tensor, least: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """For each number of rows from `least` on, which of them differ."""
    width, out, biased = kind
    half = width // 2
    order = torch.randperm(2 * half, generator=generator)
    padding = (0, width - 2 * half)

    def cancelling(count: int, sign: float) -> torch.Tensor:
        numbers = torch.randn((count, half), generator=generator)
        pairs = torch.cat((numbers, sign * numbers), dim=1)[:, order]
        return torch.nn.functional.pad(pairs, padding).to(like)

    # A few hundred rows of weights, repeated: the kernel depends on how many there are, not on what they hold.
    few = cancelling(min(out, 256), 1.0)
    weight = few.repeat(-(-out // len(few)), 1)[:out].contiguous()
    bias = like.new_zeros(out) if biased else None
    x = cancelling(_TOP, -1.0)
    together = torch.nn.functional.linear(x, weight, bias)
    for count in _COUNTS:
        if count >= least:
            yield (torch.nn.functional.linear(x[:count], weight, bias) != together[:count]).any(dim=-1)
