"""The name of the beginning of a prompt, by which a worker finds what it has read already.

128 bits, as the name selects keys and values. Whether the right ones were selected is seen all the same: the digest
chain of both sides covers the whole prompt.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

import msgspec


def prefix_name(fingerprint: bytes, version: str, tokens: Sequence[int]) -> bytes:
    """BLAKE2b-128 of a target version, its vocabulary's fingerprint and token ids, 32 bits each, little-endian."""
    name = blake2b(msgspec.msgpack.encode([version, fingerprint]), digest_size=16)
    ids = array("I", tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    name.update(ids)
    return name.digest()
