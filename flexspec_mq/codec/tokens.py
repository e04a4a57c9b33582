"""Token ids as a string of LEB128 varints.

Seven bits per byte, low bits first; the top bit says "more follows". It takes 1.9 bytes for a token of a 49k
vocabulary, where msgpack integers take 2.6. Only the shortest encoding of a number is accepted, so that equal
tokens are equal bytes.
"""

import sys
from collections.abc import Sequence
from typing import Any

from schemas.messages import MAX_TOKEN_ID

MAX_TOKEN_BYTES = 4
"""Bytes of a token: `MAX_TOKEN_ID` has 24 bits."""

_CONTINUED = bytes(range(0x80, 0x100))
_MANY_BYTES = 512
"""From here on arrays are quicker than a loop."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Encode token ids.

    Raises:
        ValueError: an id is negative or above `MAX_TOKEN_ID`.
    """
    packed = bytearray()
    append = packed.append
    for token in tokens:
        rest = token
        if not 0 <= rest <= MAX_TOKEN_ID:
            raise ValueError(f"token id {token} is not between 0 and {MAX_TOKEN_ID}")
        while rest > 0x7F:
            append(rest & 0x7F | 0x80)
            rest >>= 7
        append(rest)
    return bytes(packed)


def count_tokens(packed: bytes) -> int:
    """How many tokens `packed` holds, without decoding them."""
    return len(packed.translate(None, _CONTINUED))


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    """Decode token ids. Whoever is given them by a peer counts them first.

    Raises:
        ValueError: an id above `MAX_TOKEN_ID`, a number that is cut off or longer than it need be.
    """
    # The worker has numpy for its target. A process without it need not load it for this.
    numpy = sys.modules.get("numpy") if len(packed) >= _MANY_BYTES else None
    many = None if numpy is None else _unpack_many(packed, numpy)
    return _unpack_each(packed) if many is None else many


def _unpack_many(packed: bytes, numpy: Any) -> tuple[int, ...] | None:
    """`_unpack_each` by arrays; None where anything is wrong, which that one can say better."""
    read = numpy.frombuffer(packed, numpy.uint8)
    ends = numpy.flatnonzero(read < 0x80)
    if not len(ends) or ends[-1] != len(read) - 1:
        return None
    lengths = numpy.diff(ends, prepend=-1)
    starts = ends - lengths + 1
    if lengths.max() > MAX_TOKEN_BYTES or (read[ends[lengths > 1]] == 0).any():
        return None
    shifts = 7 * (
        numpy.arange(len(read), dtype=numpy.uint32) - numpy.repeat(starts.astype(numpy.uint32), lengths)
    )
    tokens = numpy.add.reduceat((read & 0x7F).astype(numpy.uint32) << shifts, starts)
    return None if tokens.max() > MAX_TOKEN_ID else tuple(tokens.tolist())


def _unpack_each(packed: bytes) -> tuple[int, ...]:
    """Decode token ids one after the other.

    Raises:
        ValueError: as of `unpack_tokens`.
    """
    tokens: list[int] = []
    append = tokens.append
    token = shift = 0
    for byte in packed:
        if byte > 0x7F:
            token |= (byte & 0x7F) << shift
            shift += 7
            if shift == 7 * MAX_TOKEN_BYTES:
                raise ValueError(f"token {len(tokens)} takes more than {MAX_TOKEN_BYTES} bytes")
        else:
            token |= byte << shift
            if shift and not byte:
                raise ValueError(f"token {len(tokens)} is encoded longer than it need be")
            if token > MAX_TOKEN_ID:
                raise ValueError(f"token {len(tokens)} is {token}, above {MAX_TOKEN_ID}")
            append(token)
            token = shift = 0
    if shift:
        raise ValueError("the last token is cut off")
    return tuple(tokens)
