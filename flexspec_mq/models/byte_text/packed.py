"""Requests for a server that are too long for a message, packed as blobs that a worker fetches from the device."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import msgspec
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.errors import RemoteProtocolError
from schemas.served import ServedBlob, ServedRequest

_LEVEL = 3
"""Images are compressed already: base64 comes down to their size at any level."""
_PERSON = b"flexspec-blob-1"
_NONCE = bytes(12)
"""A key seals one blob: it is derived from its bytes."""


class PackedRequest(NamedTuple):
    """A request as a blob.

    Attributes:
        prompt: JSON of the request that names the blob.
        name: name of the blob.
        data: bytes of the blob.
    """

    prompt: bytes
    name: str
    data: bytes


def packed(request: bytes, secret: bytes) -> PackedRequest:
    """Pack a request; the same bytes for the same secret, which is empty for a blob that anybody may read.

    Args:
        request: JSON of a `ServedRequest`.
        secret: 32 random bytes that nobody else knows, or none.
    """
    data, key = ZstdCompressor(level=_LEVEL).compress(request), b""
    if secret:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        key = blake2b(data, digest_size=32, key=secret, person=_PERSON).digest()
        data = ChaCha20Poly1305(key).encrypt(_NONCE, data, None)
    blob = ServedBlob(name=blob_name(data), size=len(data), length=len(request), key=key)
    return PackedRequest(msgspec.json.encode(ServedRequest(blob=blob)), blob.name, data)


def unpacked(blob: ServedBlob, data: bytes) -> bytes:
    """The JSON of a request.

    Args:
        blob: facts of the blob, which a stranger sent.
        data: bytes of the blob.

    Raises:
        RemoteProtocolError: it is none, or longer than it was said to be.
    """
    try:
        if blob.key:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

            try:
                data = ChaCha20Poly1305(blob.key).decrypt(_NONCE, data, None)
            except InvalidTag as error:
                raise RemoteProtocolError("the blob of a request has another key") from error
        if get_frame_parameters(data).content_size != blob.length:  # or it takes memory before anybody knows
            raise RemoteProtocolError("the blob of a request has another length than was said")
        return ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (ZstdError, ValueError) as error:
        raise RemoteProtocolError(f"the blob of a request cannot be read: {error}") from error
