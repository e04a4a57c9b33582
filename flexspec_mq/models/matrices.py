"""Matrices of targets: weights as they are, in the processor's order, or of 8 or 4 bits.

The kernels are torch's own and have no public names; `works` asks them before anybody relies on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

_VECTOR = 32
"""Weights of 8 bits that a kernel reads at a time, at most."""
_USUAL_ROWS = 16
"""Rows that weights are reordered for; any number of them can be multiplied then."""
_PIECE = 2048
"""Rows that are turned into 8 bits at a time."""
GROUP = 32
"""Weights of one row that share a scale and a middle in 4 bits."""
_SHRINKS = (1.0, 0.94, 0.88, 0.82, 0.76)
"""Shares of a group's range that its 16 steps may span; what lies outside is cut off. The one with the least square
error is taken: a tenth fewer of the draft's choices change."""


class Matrix(Protocol):
    """A linear layer of `rows` outputs: [n, width] → [n, rows], both bfloat16."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""


class Plain:
    """Weights as they are, [rows, width]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return functional.linear(x, self._weight, self._bias)

    def plain(self) -> torch.Tensor:
        """The weights, [rows, width]."""
        return self._weight


class Reordered:
    """Weights in the order in which the processor's kernel of oneDNN reads them; the plain ones are not kept."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _USUAL_ROWS)  # noqa: SLF001
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        kernel = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        return cast("torch.Tensor", kernel(x, self._weight, self._bias, "none", [], ""))

    def plain(self) -> torch.Tensor:
        """The weights, [rows, width], once more."""
        return cast("torch.Tensor", self._weight.to_dense())


class SteadyEightBits:
    """Weights of 8 bits with a scale for each row, symmetric.

    All rows go through the kernel for few: a row's bits do not depend on how many there are.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = torch.empty(weight.shape, dtype=torch.int8)
        self._scale = torch.empty(len(weight), dtype=torch.bfloat16)
        # By pieces: an LM head in float32 would be the largest thing that a device ever holds.
        for begin in range(0, len(weight), _PIECE):
            rows = slice(begin, begin + _PIECE)
            exact = weight[rows].float()
            # The scale is rounded first, so that the weights make up for its rounding.
            scale = (exact.abs().amax(dim=1) / 127).clamp_(min=1e-30).to(torch.bfloat16)
            self._weight[rows] = (exact / scale.float()[:, None]).round_().clamp_(-127, 127)
            self._scale[rows] = scale
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        # The kernel for few rows reads whole vectors of weights, also past the end of narrower ones.
        self._by_kernel = weight.shape[1] % _VECTOR == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        if self._by_kernel:
            out = torch._weight_int8pack_mm(x, self._weight, self._scale)  # noqa: SLF001
        else:
            out = functional.linear(x, self._weight.to(torch.bfloat16)).mul_(self._scale)
        return out if self._bias is None else out.add_(self._bias)


class FourBits:
    """Weights of 4 bits with a scale and a middle for each `GROUP` of a row.

    A product of many rows runs through the same kernel: keeping the weights a second time would cost what was saved.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        rows, width = weight.shape
        codes = torch.empty((rows, width), dtype=torch.int32)
        scales = torch.empty((rows, width // GROUP, 2), dtype=torch.bfloat16)
        for begin in range(0, rows, _PIECE):
            piece = slice(begin, begin + _PIECE)
            codes[piece], scales[piece] = _nearest(weight[piece].float())
        self._codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
        self._scales = scales.transpose(0, 1).contiguous()
        self._bias = None if bias is None else bias.to(torch.bfloat16)

    @staticmethod
    def fits(rows: int, width: int) -> bool:
        """Whether the kernel takes a matrix of this shape."""
        return width % GROUP == 0 and rows % 16 == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001
        out = cast("torch.Tensor", kernel(x, self._codes, GROUP, self._scales))
        return out if self._bias is None else out.add_(self._bias)


def _nearest(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes 0 to 15 of the shape of `weight`, and scale and middle of each group, bfloat16 [rows, groups, 2]."""
    rows, width = weight.shape
    grouped = weight.view(rows, width // GROUP, GROUP)
    low, high = grouped.aminmax(dim=-1)
    least = torch.full_like(low, float("inf"))
    codes = torch.zeros(grouped.shape, dtype=torch.int32)
    scales = torch.zeros((*low.shape, 2), dtype=torch.bfloat16)
    for shrink in _SHRINKS:
        cut = (high - low) * (1 - shrink) / 2
        # Both are rounded first, so that the codes make up for their rounding.
        scale = ((high - low - 2 * cut) / 15).clamp_(min=1e-30).to(torch.bfloat16)
        middle = (low + cut + 8 * scale.float()).to(torch.bfloat16)
        steps = ((grouped - middle.float()[..., None]) / scale.float()[..., None]).round_().clamp_(-8, 7)
        result = steps * scale.float()[..., None] + middle.float()[..., None]
        error = (result - grouped).square_().sum(dim=-1)
        better = error < least
        least = torch.where(better, error, least)
        codes = torch.where(better[..., None], steps.to(torch.int32) + 8, codes)
        scales = torch.where(better[..., None], torch.stack((scale, middle), dim=-1), scales)
    return codes.view(rows, width), scales


_KINDS: dict[str, Callable[[torch.Tensor], Matrix]] = {"int8": SteadyEightBits, "int4": FourBits}


@torch.inference_mode()
def works(kind: str) -> bool:
    """Whether torch has the kernels here, and they compute what they should."""
    drawn = torch.Generator().manual_seed(1)
    weight = torch.randn((64, 128), generator=drawn)
    x = torch.randn((3, 128), generator=drawn).to(torch.bfloat16)
    expected = x.float() @ weight.T
    try:
        result = _KINDS[kind](weight)(x).float()
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    # Rounding to 4 bits leaves about a tenth; a kernel that means another layout leaves more than the whole.
    return bool((result - expected).norm() < 0.2 * expected.norm())
