"""The low-rank additions of all heads to one matrix, side by side: two products however many heads share a forward.

Each head has columns of its own between the two products, and a row keeps only those of its head; what the others'
columns add is an exact zero. So a row's bits do not depend on who else is held, as long as the kernel sums a head's
columns in one order wherever they stand. Two rules see to that, and `Rack.compare` asks: the columns of an addition
begin at a multiple of the power of two that holds them, and there are `_GRAIN`, or a multiple of it, in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from flexspec_mq.models.invariance.product_probe import COUNTS, cancelling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flexspec_mq.models.compact.matrices import Plain, Reordered
    from flexspec_mq.models.heads.head import Delta
    from flexspec_mq.models.invariance.shapes import Shapes

    Matrix = Plain | Reordered
    Make = Callable[[torch.Tensor], Matrix]

_GRAIN = 64
"""Columns: with fewer, oneDNN and MKL take other kernels for few rows."""
_LEAST = 8
"""Columns of an addition."""

_COLUMNS = (64, 128, 256, 512)
"""Between two products, in a comparison."""
_WIDEST = 4096
"""Outputs that a comparison asks with."""

Slot = tuple[str, int, int]
"""A head, and the columns that one of its additions has, from and to."""


@dataclass(slots=True)
class Owners:
    """Which rows of a forward are whose.

    Attributes:
        spans: head, first row and the row behind the last, in ascending order, within the window.
        window: rows of the forward that additions are computed for: all that have some, and as many others as make
            their number one that keeps bits.
    """

    spans: tuple[tuple[str, int, int], ...]
    window: slice
    _masks: dict[tuple[Slot, ...], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Sequence[tuple[str, int, int]], rows: int, shapes: Shapes) -> Owners:
        """Choose the window.

        Args:
            spans: at least one, in rows of the forward.
            rows: of the forward, as many as `shapes` pads to at least.
            shapes: of products.
        """
        first, end = spans[0][1], spans[-1][2]
        begin = max(0, min(first, rows - shapes.padded(end - first)))
        window = slice(begin, begin + shapes.padded(end - begin))
        return cls(tuple((name, one - begin, other - begin) for name, one, other in spans), window)

    def hidden(self, layout: tuple[Slot, ...], columns: int, device: torch.device) -> torch.Tensor:
        """Where a column is not the row's own, [rows of the window, columns]."""
        found = self._masks.get(layout)
        if found is None:
            found = torch.ones((self.window.stop - self.window.start, columns), dtype=torch.bool)
            for name, begin, end in self.spans:
                for owner, first, behind in layout:
                    if owner == name:
                        found[begin:end, first:behind] = False
            found = self._masks[layout] = found.to(device)
        return found


class Rack:
    """Additions to a matrix whose outputs are those of several parts, one behind the other.

    Attributes:
        layout: the columns that are taken.
    """

    def __init__(self, width: int, outputs: Sequence[int], make: Make, like: torch.Tensor) -> None:
        """Hold nothing yet.

        Args:
            width: of the input.
            outputs: of each part.
            make: from plain weights to what multiplies.
            like: a tensor on the device and in the dtype of the model.
        """
        self.layout: tuple[Slot, ...] = ()
        self._width = width
        self._edges = [0]
        for count in outputs:
            self._edges.append(self._edges[-1] + count)
        self._make = make
        self._like = like
        self._down: Matrix | None = None
        self._up: Matrix | None = None
        self._scales: dict[str, list[tuple[slice, float]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds."""
        return sum(one.nbytes for one in (self._down, self._up) if one is not None)

    @property
    def owners(self) -> set[str]:
        """Heads that have columns."""
        return {name for name, _, _ in self.layout}

    @property
    def columns(self) -> int:
        """Between the two products."""
        return -(-max((end for _, _, end in self.layout), default=0) // _GRAIN) * _GRAIN

    def hold(self, name: str, deltas: Mapping[int, Delta]) -> None:
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
        self._down, self._up = self._make(down), self._make(up)

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
        self._down, self._up = self._make(down), self._make(up)

    def add(self, out: torch.Tensor, x: torch.Tensor, owners: Owners, shapes: Shapes) -> None:
        """Add to the products of a matrix.

        Args:
            out: [rows, outputs], changed where rows have an addition.
            x: [rows, width].
            owners: of the rows.
            shapes: of products.
        """
        down, up = self._down, self._up
        if down is None or up is None:
            return
        window = x[owners.window]
        between = _in_pieces(down, window, shapes)
        between.masked_fill_(owners.hidden(self.layout, between.shape[1], between.device), 0.0)
        added = _in_pieces(up, between, shapes)
        if self._scales:
            for name, begin, end in owners.spans:
                for outputs, scale in self._scales.get(name, ()):
                    added[begin:end, outputs] *= scale
        first, behind = owners.spans[0][1], owners.spans[-1][2]
        start = owners.window.start
        out[start + first : start + behind] += added[first:behind]

    @property
    def asked(self) -> tuple[int, int, int, tuple[int, ...]]:
        """What `compare` depends on: width, outputs, columns, ranks."""
        ranks = {end - first for _, first, end in self.layout}
        return self._width, min(self._edges[-1], _WIDEST), self.columns, tuple(sorted(ranks))

    @torch.inference_mode()
    def compare(self, counts: Sequence[int]) -> tuple[int, int]:
        """Compare an addition's products at some places, and among as many columns as there may be.

        Args:
            counts: of rows, ascending.

        Returns:
            Rows compared, and rows with other bits.
        """
        width, outputs, columns, ranks = self.asked
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(width // 2 * 2, generator=generator)
        most = counts[-1]
        x = cancelling(most, width, -1.0, order, generator).to(self._like)
        down = cancelling(_GRAIN, width, 1.0, order, generator).to(self._like)
        sizes = sorted({*_COLUMNS, columns})
        found = []
        for size in sizes:
            product = self._make(functional.pad(down, (0, 0, size - _GRAIN, 0)))
            found.append([product(x[:count])[:, -_GRAIN:] for count in counts])
        rows, differing = _differing(found)
        for rank in ranks:
            order = torch.randperm(rank // 2 * 2, generator=generator)
            between = cancelling(most, rank, -1.0, order, generator).to(self._like)
            up = cancelling(outputs, rank, 1.0, order, generator).to(self._like)
            found = []
            for size in (size for size in sizes if size >= _grain(rank)):
                for first in {0, _grain(rank) % size, (size - _grain(rank)) // _grain(rank) * _grain(rank)}:
                    if first + rank > size:
                        continue
                    room = (first, size - first - rank)
                    product = self._make(functional.pad(up, room))
                    spread = functional.pad(between, room)
                    found.append([product(spread[:count]) for count in counts])
            more, others = _differing(found)
            rows, differing = rows + more, differing + others
        return rows, differing

    def _plain(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._down is None or self._up is None:
            return self._like.new_zeros((0, self._width)), self._like.new_zeros((self._edges[-1], 0))
        return self._down.plain().clone(), self._up.plain().clone()


def _in_pieces(product: Matrix, x: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    pieces = [product(piece) for piece in shapes.pieces(x)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _differing(found: Sequence[Sequence[torch.Tensor]]) -> tuple[int, int]:
    """Rows, and rows with other bits than in the last of the first ones, which has all."""
    wanted = found[0][-1]
    every = [one for results in found for one in results]
    return sum(map(len, every)), sum(int((one != wanted[: len(one)]).any(dim=-1).sum()) for one in every)


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
    """Weights that have the scale in them where it rounds nothing, and what of it is left."""
    if abs(math.frexp(scale)[0]) == 0.5:
        scaled = up * scale
        if torch.equal(scaled / scale, up):
            return scaled, 1.0
    return up, scale


def _resized(weights: torch.Tensor, columns: int, along: int) -> torch.Tensor:
    """As many rows or columns as there shall be; new ones are zeros."""
    kept = weights.narrow(along, 0, min(columns, weights.shape[along]))
    size = list(weights.shape)
    size[along] = columns - kept.shape[along]
    return torch.cat((kept, weights.new_zeros(size)), dim=along)


def compare_racks(racks: Sequence[Rack], shapes: Shapes) -> tuple[int, int]:
    """Compare products of additions at every place that they may have, with sums that cancel.

    Args:
        racks: those that are alike are asked once.
        shapes: of products.

    Returns:
        Rows compared, and rows with other bits.
    """
    asked = {rack.asked: rack for rack in racks}
    counts = [
        count for count in COUNTS if count >= shapes.min_rows and count <= (shapes.max_rows or COUNTS[-1])
    ]
    found = [(0, 0), *(rack.compare(counts) for rack in asked.values())]
    rows, differing = (sum(numbers) for numbers in zip(*found, strict=True))
    return rows, differing
