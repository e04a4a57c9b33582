"""Vectors of texts within a text of bytes: a line of JSON, in which each is base64 of floats of 32 bits, little-endian.

Lines before the last are what an earlier worker wrote before it died.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import isfinite

import msgspec

_FLOAT = 4
"""Bytes of a number."""


def encode_vectors(vectors: Sequence[Sequence[float]]) -> bytes:
    """The line of vectors of one length.

    Raises:
        ValueError: they have several lengths or none, or a number is not finite in 32 bits.
    """
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise ValueError("vectors of several lengths, or of none")
    try:
        packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    except OverflowError as error:
        raise ValueError("a number beyond 32 bits") from error
    if not all(isfinite(number) for vector in vectors for number in vector):
        raise ValueError("a number that is not finite")
    return msgspec.json.encode(packed)


def decode_vectors(content: str, count: int) -> list[bytes]:
    """Vectors of the last line, each as floats of 32 bits.

    Raises:
        ValueError: these are not so many vectors of one length, of finite numbers.
    """
    try:
        vectors = msgspec.json.decode(content.rpartition("\n")[2], type=list[bytes])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    sizes = {len(vector) for vector in vectors}
    if len(vectors) != count or len(sizes) != 1 or not min(sizes) or min(sizes) % _FLOAT:
        raise ValueError(f"{len(vectors)} vectors of {sorted(sizes)[:3]} bytes for {count} texts")
    if not all(isfinite(number) for vector in vectors for number in numbers(vector)):
        raise ValueError("a number that is not finite")
    return vectors


def numbers(vector: bytes) -> tuple[float, ...]:
    """The numbers of a vector."""
    return struct.unpack(f"<{len(vector) // _FLOAT}f", vector)


def bytes_of(count: int, dimensions: int) -> int:
    """Bytes of the line of so many vectors."""
    return 1 + count * (3 + 4 * -(-_FLOAT * dimensions // 3))
