"""Low-rank additions (LoRA) of all heads to one matrix, side by side: two products however many heads share a forward.

Each head has columns of its own between the two products, and a row keeps only those of its head; the others' columns
add an exact zero. So a row's bits do not depend on which heads are held, as long as the kernel sums a head's columns
in one order wherever they stand. Two rules see to that, and `LoraBank.compare` asks: the columns of an addition begin
at a multiple of the power of two that holds them, and there are `_GRAIN`, or a multiple of it, in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.invariance.product_probe import cancelling
from flexspec_mq.models.invariance.shapes import Shapes
from flexspec_mq.models.matrices import Plain, Reordered

if TYPE_CHECKING:
    from flexspec_mq.models.head import LoraDelta

    Matrix = Plain | Reordered
    Make = Callable[[torch.Tensor, torch.Tensor | None], Matrix]

_GRAIN = 64
"""Columns: with fewer, oneDNN and MKL take other kernels for few rows."""
_LEAST = 8
"""Fewest columns of an addition."""
COLUMNS = (64, 128, 256, 512)
"""Columns between two products, in a comparison."""
_WIDEST = 4096
"""Most outputs in a comparison."""

Slot = tuple[str, int, int]
"""A head, and the columns of one of its additions: first, and behind the last."""


class RowOwners:
    """Rows of a forward that have low-rank additions, and the head of each.

    Attributes:
        window: rows of the forward that have additions.
        rows: how many these are.
        spans: head, first row and the row behind the last, in ascending order, within the window.
        padding: rows that products need besides.
        shapes: shapes of the additions' products.
    """

    def __init__(self, spans: Sequence[tuple[str, int, int]], shapes: Shapes) -> None:
        """Take at least one span in rows of the forward."""
        begin, end = spans[0][1], spans[-1][2]
        self.window, self.rows = slice(begin, end), end - begin
        self.spans = [(name, first - begin, behind - begin) for name, first, behind in spans]
        self.padding = shapes.padded(self.rows) - self.rows
        self.shapes = shapes
        self._masks: dict[tuple[Slot, ...], torch.Tensor] = {}

    def hidden(self, layout: tuple[Slot, ...], columns: int, device: torch.device) -> torch.Tensor:
        """Mask of the columns that are not the row's own, [rows of the window and padding, columns]."""
        mask = self._masks.get(layout)
        if mask is None:
            mask = torch.ones((self.rows + self.padding, columns), dtype=torch.bool)
            for name, begin, end in self.spans:
                for owner, first, behind in layout:
                    if owner == name:
                        mask[begin:end, first:behind] = False
            mask = self._masks[layout] = mask.to(device)
        return mask


class LoraBank:
    """Additions to a matrix whose outputs are those of several parts, one behind the other.

    Attributes:
        layout: columns that are taken.
    """

    def __init__(self, width: int, outputs: Sequence[int], make: Make, like: torch.Tensor) -> None:
        """Hold nothing yet.

        Args:
            width: width of the input.
            outputs: number of outputs of each part.
            make: prepares a matrix from plain weights.
            like: a tensor on the device and in the dtype of the model.
        """
        self.layout: tuple[Slot, ...] = ()
        self._width = width
        self._edges = [0, *accumulate(outputs)]
        self._make = make
        self._like = like
        self._down: Matrix | None = None
        self._up: Matrix | None = None
        self._scales: dict[str, list[tuple[slice, float]]] = {}

    @property
    def owners(self) -> set[str]:
        """Heads that have columns."""
        return {name for name, _, _ in self.layout}

    @property
    def columns(self) -> int:
        """Columns between the two products."""
        return -(-max((end for _, _, end in self.layout), default=0) // _GRAIN) * _GRAIN

    def hold(self, name: str, deltas: Mapping[int, LoraDelta]) -> None:
        """Take a head's additions, each to a part."""
        added = []
        taken = list(self.layout)
        for part, delta in deltas.items():
            first = _free(taken, delta.rank)
            taken.append((name, first, first + delta.rank))
            added.append((part, delta, slice(first, first + delta.rank)))
        down, up = self._plain()
        self.layout = tuple(sorted(taken, key=lambda slot: slot[1]))
        down, up = _resized(down, self.columns, 0), _resized(up, self.columns, 1)
        for part, delta, columns in added:
            outputs = slice(*self._edges[part : part + 2])
            raised, left = _folded(delta.up.to(self._like), delta.scale)
            down[columns] = delta.down.to(self._like)
            up[outputs, columns] = raised
            if left != 1.0:
                self._scales.setdefault(name, []).append((outputs, left))
        self._down, self._up = self._make(down, None), self._make(up, None)

    def drop(self, name: str) -> None:
        """Forget a head; the others stay where they are. It need not be known."""
        if name not in self.owners:
            return
        down, up = self._plain()
        for owner, first, end in self.layout:
            if owner == name:
                down[first:end] = 0.0
                up[:, first:end] = 0.0
        self.layout = tuple(slot for slot in self.layout if slot[0] != name)
        self._scales.pop(name, None)
        if not self.layout:
            self._down = self._up = None
            return
        down, up = _resized(down, self.columns, 0), _resized(up, self.columns, 1)
        self._down, self._up = self._make(down, None), self._make(up, None)

    def add(self, out: torch.Tensor, x: torch.Tensor, owners: RowOwners) -> None:
        """Add to the products of a matrix.

        Args:
            out: [rows, outputs], changed where rows have an addition.
            x: input of the matrix, [rows, width].
            owners: heads of the rows.
        """
        down, up, shapes = self._down, self._up, owners.shapes
        if down is None or up is None:
            return
        window = x[owners.window].to(self._like)
        if owners.padding:
            window = functional.pad(window, (0, 0, 0, owners.padding))
        between = shapes.multiply(down, window)
        between.masked_fill_(owners.hidden(self.layout, between.shape[1], between.device), 0.0)
        added = shapes.multiply(up, between)
        for name, begin, end in owners.spans if self._scales else ():
            for outputs, scale in self._scales.get(name, ()):
                added[begin:end, outputs] *= scale
        out[owners.window] += added[: owners.rows]

    @property
    def compared(self) -> tuple[int, int, int, tuple[int, ...]]:
        """Width, outputs, columns and ranks, on which alone `compare` depends."""
        ranks = {end - first for _, first, end in self.layout}
        return self._width, min(self._edges[-1], _WIDEST), self.columns, tuple(sorted(ranks))

    @torch.inference_mode()
    def compare(self, counts: Sequence[int]) -> tuple[int, int]:
        """Compare an addition's products at some places, and among as many columns as there may be.

        Args:
            counts: numbers of rows, ascending.

        Returns:
            Rows compared, and rows with other bits.
        """
        width, outputs, columns, ranks = self.compared
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(width // 2 * 2, generator=generator)
        most = counts[-1]
        x = cancelling(most, width, -1.0, order, generator).to(self._like)
        down = cancelling(_GRAIN, width, 1.0, order, generator).to(self._like)
        sizes = sorted({*COLUMNS, columns})
        results = []
        for size in sizes:
            product = self._make(functional.pad(down, (0, 0, size - _GRAIN, 0)), None)
            results.append([product(x[:count])[:, -_GRAIN:] for count in counts])
        rows, differing = _differing(results)
        for rank in ranks:
            order = torch.randperm(rank // 2 * 2, generator=generator)
            between = cancelling(most, rank, -1.0, order, generator).to(self._like)
            up = cancelling(outputs, rank, 1.0, order, generator).to(self._like)
            results = []
            for size in (size for size in sizes if size >= _grain(rank)):
                for first in {0, _grain(rank) % size, (size - _grain(rank)) // _grain(rank) * _grain(rank)}:
                    if first + rank > size:
                        continue
                    room = (first, size - first - rank)
                    product = self._make(functional.pad(up, room), None)
                    spread = functional.pad(between, room)
                    results.append([product(spread[:count]) for count in counts])
            more, others = _differing(results)
            rows, differing = rows + more, differing + others
        return rows, differing

    def _plain(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._down is None or self._up is None:
            return self._like.new_zeros((0, self._width)), self._like.new_zeros((self._edges[-1], 0))
        return self._down.plain().clone(), self._up.plain().clone()


def _differing(results: Sequence[Sequence[torch.Tensor]]) -> tuple[int, int]:
    """Rows, and rows with other bits than in the last result of the first list, which has all."""
    wanted = results[0][-1]
    every = [result for some in results for result in some]
    return sum(map(len, every)), sum(
        int((result != wanted[: len(result)]).any(dim=-1).sum()) for result in every
    )


def _grain(rank: int) -> int:
    """The power of two that holds the columns of an addition."""
    return max(_LEAST, 1 << (rank - 1).bit_length())


def _free(taken: Sequence[Slot], rank: int) -> int:
    """The first column from which on there is room."""
    grain, first = _grain(rank), 0
    while any(begin < first + grain and first < begin + _grain(end - begin) for _, begin, end in taken):
        first += grain
    return first


def _folded(up: torch.Tensor, scale: float) -> tuple[torch.Tensor, float]:
    """Weights with the scale in them where it rounds nothing, and the scale that is left."""
    if abs(math.frexp(scale)[0]) == 0.5:
        scaled = up * scale
        if torch.equal(scaled / scale, up):
            return scaled, 1.0
    return up, scale


def _resized(weights: torch.Tensor, columns: int, along: int) -> torch.Tensor:
    """Weights with so many rows or columns; new ones are zeros."""
    kept = weights.narrow(along, 0, min(columns, weights.shape[along]))
    size = list(weights.shape)
    size[along] = columns - kept.shape[along]
    return torch.cat((kept, weights.new_zeros(size)), dim=along)
