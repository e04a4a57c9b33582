"""Messages about blobs as payloads, and the name of a blob: `schemas/blobs.py`."""

import hashlib
from typing import BinaryIO, TypeVar

import msgspec

from flexspec_mq.codec.codec import compression_of, flag_byte
from flexspec_mq.codec.compression import PLAIN
from flexspec_mq.errors import RemoteProtocolError
from schemas.blobs import BlobPiece, BlobRequest

MessageT = TypeVar("MessageT", BlobRequest, BlobPiece)


def blob_name(data: bytes | bytearray) -> str:
    """The name of a blob with these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def name_of_file(file: BinaryIO) -> str:
    """The name of a blob that a file holds."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]


def encode_blob(message: BlobRequest | BlobPiece) -> bytes:
    """Make the payload of a message about a blob."""
    return flag_byte(PLAIN) + msgspec.msgpack.encode(message)


def decode_blob(payload: bytes, kind: type[MessageT]) -> MessageT:
    """Read a message about a blob.

    Raises:
        RemoteProtocolError: it is none, or out of bounds.
    """
    if compression_of(payload) != PLAIN:
        raise RemoteProtocolError(f"{kind.__name__} is compressed")
    try:
        return msgspec.msgpack.decode(memoryview(payload)[1:], type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{kind.__name__}: {error}") from error
