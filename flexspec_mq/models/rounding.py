"""Weights rounded to 8 or 4 bits, in blocks of a row that share a scale and a middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Bytes = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights of one row that share a scale; the input of a product is rounded to 8 bits in blocks of the same size."""
_SHRINKS = (1.0, 0.94, 0.88, 0.82, 0.76)
"""Shares of a block's range that its 16 steps may span, of which the best is taken."""
_TINY = 1e-12
_PIECE = 2048
"""Rows that are rounded at a time."""


def round_to(bits: int, weight: Floats) -> tuple[Bytes, Floats, Bytes | None]:
    """Round a matrix [rows, width] to 4 or 8 bits; a last block that is not full is filled with zeros.

    Returns:
        Codes, uint8 [rows, blocks, bytes of a block], of two in a byte the low one first; scales, float32 [rows,
        blocks]; and the codes that mean zero, uint8 [rows, bytes], packed as the codes are, None where it is 128.
    """
    rows, width = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    parts = [_ROUNDERS[bits](padded[begin : begin + _PIECE]) for begin in range(0, rows, _PIECE)]
    codes, scales, middles = (np.concatenate(each) for each in zip(*parts, strict=True))
    if bits == 8:
        return codes, scales, None
    return _pairs(codes), scales, _pairs(np.pad(middles, ((0, 0), (0, middles.shape[1] % 2))))


def _eight(blocks: Floats) -> tuple[Bytes, Floats, Bytes]:
    scales = np.maximum(np.abs(blocks).max(axis=-1) / 127, _TINY).astype(np.float32)
    codes = np.rint(blocks / scales[..., None]) + 128
    return codes.astype(np.uint8), scales, np.full(scales.shape, 128, dtype=np.uint8)


def _four(blocks: Floats) -> tuple[Bytes, Floats, Bytes]:
    # Zero must be one of the steps, so it must lie in the range.
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    least = np.full(low.shape, np.inf, dtype=np.float32)
    codes, middles = np.zeros(blocks.shape, dtype=np.uint8), np.zeros(low.shape, dtype=np.uint8)
    scales = np.zeros(low.shape, dtype=np.float32)
    for shrink in _SHRINKS:
        scale = np.maximum((high - low) * np.float32(shrink / 15), np.float32(_TINY))
        middle = np.clip(np.rint(-low * np.float32(shrink) / scale), 0, 15)
        code = np.clip(np.rint(blocks / scale[..., None]) + middle[..., None], 0, 15)
        error = np.square((code - middle[..., None]) * scale[..., None] - blocks).sum(axis=-1)
        better = error < least
        least[better], scales[better], middles[better] = error[better], scale[better], middle[better]
        codes[better] = code[better]
    return codes, scales, middles


def _pairs(codes: Bytes) -> Bytes:
    """Two codes of 4 bits in a byte, along the last axis."""
    packed: Bytes = np.bitwise_or(codes[..., 0::2], codes[..., 1::2] << 4)
    return packed


_ROUNDERS = {8: _eight, 4: _four}
