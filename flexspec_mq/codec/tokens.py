"""Token ids as a string of LEB128 varints.

Seven bits per byte, low bits first; the top bit says "more follows". That is 1.9 bytes for a token of a 49k
vocabulary, where msgpack integers take 2.6. Only the shortest encoding of a number is accepted, so that equal
tokens are equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.messages import MAX_TOKEN_ID

MAX_TOKEN_BYTES = 4
"""Of one token: `MAX_TOKEN_ID` has 24 bits."""

_CONTINUED = bytes(range(0x80, 0x100))


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


def unpack_tokens(packed: bytes, *, at_least: int, at_most: int) -> tuple[int, ...]:
    """Decode token ids, after a look at how many there are.

    Raises:
        ValueError: too few or too many tokens, an id above `MAX_TOKEN_ID`, a number that is cut off or longer
            than it need be.
    """
    count = count_tokens(packed)
    if not at_least <= count <= at_most:
        raise ValueError(f"{count} tokens, not between {at_least} and {at_most}")
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
