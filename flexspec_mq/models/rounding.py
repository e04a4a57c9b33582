"""Weights rounded to 8, 4 or 2 bits, in blocks of a row that share a scale and a middle."""

import numpy as np
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


def round_to(bits: int, weight: Floats, block: int = BLOCK) -> tuple[Bytes, Floats, Bytes | None]:
    """Round a matrix [rows, width] to 8, 4 or 2 bits; a last block that is not full is filled with zeros.

    Returns:
        Codes, uint8 [rows, blocks, bytes of a block], of several in a byte the low one first; scales, float32 [rows,
        blocks]; and the codes that mean zero, uint8 [rows, bytes], packed as the codes are, None where it is half of
        all codes.
    """
    rows, width = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -width % block))).reshape(rows, -1, block)
    parts = [_ROUNDERS[bits](padded[begin : begin + _PIECE]) for begin in range(0, rows, _PIECE)]
    codes, scales, middles = (np.concatenate(each) for each in zip(*parts, strict=True))
    if bits != 4:
        return _packed(codes, bits), scales, None
    return _packed(codes, bits), scales, _packed(np.pad(middles, ((0, 0), (0, middles.shape[1] % 2))), bits)


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


def _two(blocks: Floats) -> tuple[Bytes, Floats, Bytes]:
    # Steps are -2, -1, 0 and 1, of either sign: the weight that is farthest from zero gets the first.
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    least = np.full(farthest.shape, np.inf, dtype=np.float32)
    codes, scales = np.zeros(blocks.shape, dtype=np.uint8), np.zeros_like(farthest)
    for shrink in _SHRINKS:
        scale = np.where(farthest == 0, np.float32(_TINY), farthest * np.float32(shrink / -2))
        code = np.clip(np.rint(blocks / scale), -2, 1)
        error = np.square(code * scale - blocks).sum(axis=-1, keepdims=True)
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, scale, scales)
        codes = np.where(better, code + 2, codes).astype(np.uint8)
    return codes, scales[..., 0], np.full(scales.shape[:-1], 2, dtype=np.uint8)


def _packed(codes: Bytes, bits: int) -> Bytes:
    """Codes of some bits in bytes, along the last axis."""
    each = 8 // bits
    parts = [codes[..., place::each] << (bits * place) for place in range(each)]
    packed: Bytes = np.bitwise_or.reduce(parts)
    return packed


_ROUNDERS = {8: _eight, 4: _four, 2: _two}
