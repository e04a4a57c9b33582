"""Makes other bytes of a payload: blindly, and with an eye for what session messages are made of."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flexspec_mq.codec.codec import flag_byte
from flexspec_mq.codec.compression import CURRENT, ZSTD, decompress, dictionary, make_compressor
from flexspec_mq.codec.tokens import pack_tokens
from flexspec_mq.errors import RemoteProtocolError

MOST_BYTES = 300_000
"""A little more than any of ours reads."""
_ODD_INTEGERS = (
    0, 1, -1, 63, 64, 65, 127, 128, 255, 2**15, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0.0, float("nan"), float("inf"), "", "w1", "a/b", "x" * 400, b"", b"\x80", [], [[]], {}
)  # fmt: skip
_MARKERS = bytes(
    (0x00, 0x7F, 0x80, 0x90, 0x9F, 0xC0, 0xC4, 0xC6, 0xCA, 0xCF, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF, 0xE0, 0xFF)
)
_COMPRESSORS = {code: make_compressor(dictionary(code)) for code in (ZSTD, CURRENT)}

Mutator = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutant(rng: random.Random, seed: bytes, others: Sequence[bytes], mutators: Sequence[Mutator]) -> bytes:
    """A payload after one to four changes.

    Args:
        rng: all chance.
        seed: payload to change.
        others: payloads to take pieces from.
        mutators: changes to choose from.
    """
    found = seed
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        found = rng.choice(mutators)(rng, found, others)[:MOST_BYTES]
    return found


def _flip(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x10"
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _put(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Other bytes in place of some, or between them."""
    start = rng.randint(0, len(data))
    new = bytes(
        rng.choice(_MARKERS) if rng.random() < 0.7 else rng.randrange(256) for _ in range(rng.randint(1, 6))
    )
    return data[:start] + new + data[start + rng.choice((0, len(new))) :]


def _cut(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[rng.choice((len(data), rng.randint(start, len(data)))) :]


def _repeat(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    piece = data[start : start + rng.randint(1, 16)]
    return data[:start] + piece * rng.choice((1, 2, 10, 200)) + data[start:]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _field(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Another value in a field of a session message; one more field, or one less."""
    try:
        body = decompress(data[0] & 15, memoryview(data)[1:])
        fields = msgspec.msgpack.decode(body)
    except (RemoteProtocolError, msgspec.MsgspecError, ValueError, IndexError, RecursionError):
        return _flip(rng, data, ())
    if not isinstance(fields, list) or not fields:
        return _flip(rng, data, ())
    place = rng.randrange(len(fields))
    inner = fields[place]
    if isinstance(inner, list) and inner and rng.random() < 0.8:
        inner[rng.randrange(len(inner))] = _value(rng)
    else:
        fields[place] = _value(rng)
    if rng.random() < 0.1:
        fields = fields[:place] if rng.random() < 0.5 else [*fields, _value(rng)]
    return packed(rng, msgspec.msgpack.encode(fields))


def _value(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_ODD_INTEGERS)
    if kind < 0.6:
        return rng.randint(0, 100)
    if kind < 0.8:
        top = rng.choice((50, 2**14, 2**24))
        count = (
            rng.choice((0, 1, 3, 64, 65, 320, 321, 600)) if rng.random() < 0.98 else rng.choice((8000, 9000))
        )
        return pack_tokens(
            [rng.randrange(top)] * count if rng.random() < 0.5 else [rng.randrange(top) for _ in range(count)]
        )
    return rng.choice(_ODD_VALUES)


def packed(rng: random.Random, body: bytes) -> bytes:
    """A body as a payload, compressed or not."""
    code = rng.choice((0, 0, *_COMPRESSORS))
    return flag_byte(code) + (body if not code else _COMPRESSORS[code].compress(body))


def _text(rng: random.Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Another word at some place of a JSON document."""
    words = (
        b'"', b"\\ud800", b"\\u0000", b"[" * 50, b"]", b"{", b"}", b",", b":", b"null", b"-1", b"1e999", b"9" * 30,
        b"NaN", b'"a":', b"\xff", b"[" * 3000,
    )  # fmt: skip
    start = rng.randint(0, len(data))
    return data[:start] + rng.choice(words) + data[rng.choice((start, rng.randint(start, len(data)))) :]


BYTES: tuple[Mutator, ...] = (_flip, _put, _cut, _repeat, _splice)
MESSAGES: tuple[Mutator, ...] = (*BYTES, _field, _field, _field, _field)
DOCUMENTS: tuple[Mutator, ...] = (*BYTES, _text, _text, _text)
