"""Blobs: bytes named by their hash, such as a tokenizer, that one client of the broker fetches from another in pieces.

They are msgpack arrays behind the flag byte of session messages, never compressed and never under keys: who asks
believes the name, which it has from elsewhere, and a blob that has another hash is thrown away.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_BLOB = 2**30
"""Bytes of a blob at most; who fetches one has a bound of its own."""
MAX_PIECE = 16_384
"""Bytes that travel in one message at most: any broker that sessions can use takes it."""

BlobName = Annotated[str, Meta(pattern="^[0-9a-f]{32}$(?!\n)")]
"""BLAKE2b-128 of its bytes, in hex."""
Offset = Annotated[int, Meta(ge=0, le=MAX_BLOB)]


class BlobRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Asks for some bytes of a blob, on ``f1/g/<holder>/<asker>``; workers ask devices too, for long requests.

    Attributes:
        name: which.
        begin: first byte.
        most: bytes wanted at most; they come in pieces, in order.
    """

    name: BlobName
    begin: Offset
    most: Offset


class BlobPiece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Some bytes of a blob, on ``f1/b/<asker>``, of a device on ``f1/b/<asker>/<holder>``.

    Attributes:
        name: whose.
        size: bytes of the whole blob; 0 says that the holder does not have it, or gives no more of it today.
        begin: where in the blob these bytes are.
    """

    name: BlobName
    size: Offset
    begin: Offset
    data: Annotated[bytes, Meta(max_length=MAX_PIECE)] = b""
