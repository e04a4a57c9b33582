"""Matrices of targets: weights as they are, or in the processor's order. `Integers` has those of 8 bits."""

from typing import Protocol, cast

import torch
from torch.nn import functional

_USUAL_ROWS = 16
"""Rows that weights are reordered for; any number of them can be multiplied then."""


class Matrix(Protocol):
    """A linear layer of `rows` outputs: [n, width] → [n, rows]."""

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
