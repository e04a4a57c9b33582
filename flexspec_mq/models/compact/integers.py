"""Products of 8-bit integers by oneDNN, for targets on a CPU: nine rows take little longer than one.

Weights are rounded with a scale for each output, inputs row by row. Sums of integers have no order, so the bits of a
row are the same whatever shares its product, by arithmetic. Inputs are unsigned, with 128 for zero: oneDNN has quick
kernels for these alone.

A few numbers of a row are far larger than the rest, and would leave it few steps. So both sides are multiplied by a
Hadamard matrix first, block by block, which spreads each number over its block and leaves products as they are (QuaRot,
arXiv 2404.00456). This is exact as well, as inputs are rounded to integers of 14 bits before.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import torch

from flexspec_mq.errors import ModelError

_BLOCK = 64
"""Most numbers of a row that are spread over one another."""
_FINE = 8191.0
"""Largest number that inputs are rounded to before: sums of a block's are exact in float32, beyond it by far."""
_MOST = 127.0
"""Largest number that weights, and inputs on either side of the middle, are rounded to."""
_MIDDLE = 128
_TINY = 1e-30
_LEAST = 4
"""Rows of a product at least: one to three take a kernel that is slower for one than this one is for six."""
_PIECE = 1 << 18
"""Weights that are rounded at a time, which a processor's caches hold."""
_MOST_ROWS = 1 << 15
"""Most rows of a matrix in the kernel's order; larger ones are several, so that one that is empty is soon made."""
_WIDTH = 256
"""Numbers that are summed to see whether a processor adds them exactly."""


class Integers:
    """A matrix in 8-bit integers: [n, width] → float32 [n, rows].

    Args:
        width: numbers of a row.
        packed: the codes, as `pack` gives them.
        scales: float32 [rows], by which the codes are weights.
        bias: floating point [rows].
    """

    def __init__(
        self,
        width: int,
        packed: Sequence[torch.Tensor],
        scales: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> None:
        self._spread = _hadamard(_block(width))
        scales = scales / (_MOST * _FINE * len(self._spread))
        self._parts = [
            (part, scale, torch.zeros(len(scale), dtype=torch.int32))
            for part, scale in zip(packed, torch.split(scales, part_rows(len(scales))), strict=True)
        ]
        self._bias = None if bias is None else bias.float()

    @classmethod
    def rounded(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Integers:
        """Round weights, floating point [rows, width], which are left as they are."""
        codes, scales = round_weights(weight)
        return cls(weight.shape[1], pack(codes), scales, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Spread and round the rows, each by its largest number, and multiply."""
        largest = _largest(x, _TINY)
        fine = torch.mul(x.float(), _FINE / largest).round_()
        spread = torch.mm(fine.view(-1, len(self._spread)), self._spread).view(x.shape)
        most = _largest(spread, 1.0)
        codes = torch.empty((max(len(x), _LEAST), x.shape[1]), dtype=torch.uint8)
        # Half a step more, as what follows the point is cut off; and by way of 16 bits, which is quicker.
        codes[: len(x)] = spread.mul_(_MOST / most).add_(_MIDDLE + 0.5).to(torch.int16)
        products = [
            torch.ops.onednn.qlinear_pointwise(
                codes, 1.0, _MIDDLE, part, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "none"
            )
            for part, scales, zeros in self._parts
        ]
        out = (products[0] if len(products) == 1 else torch.cat(products, dim=1))[: len(x)]
        out.mul_(largest.mul_(most))
        if self._bias is not None:
            out.add_(self._bias)
        return out


def pack(codes: torch.Tensor) -> list[torch.Tensor]:
    """Bring int8 codes, [rows, width], into the kernel's order, in parts of as many rows as `part_rows` says."""
    parts = torch.split(codes, part_rows(len(codes)))
    return [torch.ops.onednn.qlinear_prepack(part, [1, codes.shape[1]]) for part in parts]


def part_rows(rows: int) -> int:
    """Rows of each part of a matrix; the last one may have fewer."""
    return -(-rows // -(-rows // _MOST_ROWS))


def packed_bytes(part: torch.Tensor) -> torch.Tensor:
    """The bytes of codes in the kernel's order, uint8 [bytes], where they lie."""
    ops = torch.ops.mkldnn
    room = (ctypes.c_uint8 * ops._nbytes(part)).from_address(ops.data_ptr(part))  # noqa: SLF001
    room.part = part  # the tensor keeps its buffer, and this its memory
    return torch.frombuffer(room, dtype=torch.uint8)


class KernelOrder:
    """The order in which this processor's kernel reads codes, by their numbers of rows and columns.

    To bring codes into it takes ten times as long as to copy bytes that are in it.
    """

    def __init__(self) -> None:
        self._empty: dict[tuple[int, int], torch.Tensor] = {}

    def _like(self, rows: int, width: int) -> torch.Tensor:
        empty = self._empty.get((rows, width))
        if empty is None:
            (empty,) = pack(torch.zeros((rows, width), dtype=torch.int8))
            self._empty[rows, width] = empty
        return empty

    def digest(self, sizes: Iterable[tuple[int, int]]) -> str:
        """Tell this order from those of other processors and versions of oneDNN, by matrices of these sizes."""
        whole = hashlib.blake2b(digest_size=4)
        for rows, width in sizes:
            facts = torch.ops.mkldnn._get_mkldnn_serialized_md(self._like(part_rows(rows), width))  # noqa: SLF001
            whole.update(facts.numpy().tobytes())
        return whole.hexdigest()

    def nbytes(self, rows: int, width: int) -> int:
        """Bytes of a matrix of this size."""
        return sum(len(packed_bytes(self._like(each, width))) for each in _parts(rows))

    def forget(self) -> None:
        """Free what it needs for reading; it is made again when it is needed again."""
        self._empty.clear()

    def read(self, rows: int, width: int, stored: torch.Tensor) -> list[torch.Tensor]:
        """A matrix of this size from its bytes, one part behind the other, which are copied."""
        packed = [self._like(each, width).clone() for each in _parts(rows)]
        rooms = [packed_bytes(part) for part in packed]
        for room, part in zip(rooms, torch.split(stored, [len(room) for room in rooms]), strict=True):
            room.copy_(part)
        return packed


def _parts(rows: int) -> list[int]:
    """Rows of each part of a matrix."""
    most = part_rows(rows)
    return [min(most, rows - begin) for begin in range(0, rows, most)]


def round_weights(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread and round weights, floating point [rows, width], to int8 codes and float32 scales [rows]."""
    codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    width = weight.shape[1]
    spread, step = _hadamard(_block(width)), max(1, _PIECE // width)
    for begin in range(0, len(weight), step):
        rows = slice(begin, begin + step)
        wide = weight[rows].float()
        wide = torch.mm(wide.reshape(-1, len(spread)), spread).view(wide.shape)
        scale = _largest(wide, _TINY).div_(_MOST)
        codes[rows] = wide.div_(scale).round_()
        scales[rows] = scale[:, 0]
    return codes, scales


def _largest(rows: torch.Tensor, least: float) -> torch.Tensor:
    """The largest magnitude in each row, [rows, 1], at least so much."""
    return rows.abs().amax(dim=1, keepdim=True).float().clamp_(min=least)


def _block(width: int) -> int:
    """The largest power of two up to `_BLOCK` that divides a width."""
    return min(width & -width, _BLOCK)


@cache
def _hadamard(size: int) -> torch.Tensor:
    """Sylvester's matrix of ones and minus ones, [size, size]: symmetric, and `size` times its own inverse."""
    matrix = torch.ones((1, 1))
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def check_integers() -> None:
    """Refuse a processor that cannot add products of 8-bit integers exactly.

    Without dot products of bytes (VNNI on x86) pairs of products are added in 16 bits, which is too few.

    Raises:
        ModelError: this processor does, or torch has no such kernel for it.
    """
    codes = torch.full((32, _WIDTH), _MOST).to(torch.int8)
    codes[1::2] *= -1
    x = torch.zeros((1, _WIDTH))
    x[:, ::_BLOCK] = 1.0  # spread, each of its numbers is the largest
    try:
        found = Integers(_WIDTH, pack(codes), torch.ones(len(codes)))(x)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            "this torch has no products of 8-bit integers for this processor", hint=_HINT
        ) from error
    sums = codes.double().sum(dim=1) / _BLOCK
    if not torch.allclose(found[0].double(), sums, rtol=1e-6, atol=0.0):
        raise ModelError("this processor adds products of 8-bit integers in too few bits", hint=_HINT)


_HINT = "--weights native"
