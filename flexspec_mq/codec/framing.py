"""The flag byte that comes first in every payload.

Bits 7 to 4 hold the version of the wire protocol, 1 to 15, so that any version can say of any other that it
is another. Bits 3 to 0 say how the body is compressed: 0 not at all, 1 zstd, 2 to 15 zstd with a dictionary.
A new dictionary takes a new number; frames made with an old one stay readable as long as the old file ships.
"""

from __future__ import annotations

from flexspec_mq.errors import RemoteProtocolError
from schemas.messages import PROTOCOL_VERSION


def flag_byte(compression: int) -> bytes:
    """The flag byte of this protocol version for a compression code, 0 to 15."""
    return bytes((PROTOCOL_VERSION << 4 | compression,))


def compression_of(payload: bytes) -> int:
    """The compression code of a payload of this protocol version.

    Raises:
        RemoteProtocolError: the payload is empty, or speaks another protocol version.
    """
    if not payload:
        raise RemoteProtocolError("the payload is empty")
    version, compression = divmod(payload[0], 16)
    if version != PROTOCOL_VERSION:
        raise RemoteProtocolError(
            f"the payload speaks protocol version {version}, this is version {PROTOCOL_VERSION}",
            hint="run the same release of FlexSpec MQ on both sides",
        )
    return compression
