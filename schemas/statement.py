"""A deployment's statement on ``f1/i``: opening keys of its versions, and which credentials are revoked.

Published is the msgpack array of a `Statement`, and behind it an Ed25519 signature of 64 bytes by the
deployment's key. A reader never goes back to a lower serial.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

FORMAT: Final = 1
ANY: Final = "*"
"""Stands for all versions that a statement does not name."""
KEY, SERIAL = 32, 8
"""Bytes of a public key, of Ed25519 and of X25519; of a credential's serial."""
MAX_OPENING, MAX_REVOKED = 256, 16_384
MAX_CREDENTIAL: Final = 4096
"""Bytes of a credential with its signature."""
UNDATED: Final = 1_811_808_000
"""The second at which documents without a date expire, which earlier releases signed: 1 June 2027."""

Key = Annotated[bytes, Meta(min_length=KEY, max_length=KEY)]
Serial = Annotated[bytes, Meta(min_length=SERIAL, max_length=SERIAL)]
Second = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""Since the Unix epoch."""
Version = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]{1,64}|\*)$(?!\n)")]


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """Opening keys and revocations that hold until the next statement.

    Attributes:
        format: number of this array's layout; 1 is read here.
        serial: higher than of any earlier one.
        opening: version, or ``*`` for those that are not named → X25519 public key of its opens.
        revoked: serials of credentials that nobody may believe any more.
        expires: second from which nothing new is begun by it: a newer one may be withheld.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    serial: Annotated[int, Meta(ge=1, le=2**53)]
    opening: Annotated[dict[Version, Key], Meta(max_length=MAX_OPENING)]
    revoked: Annotated[frozenset[Serial], Meta(max_length=MAX_REVOKED)]
    expires: Second = UNDATED

    def opening_of(self, version: str) -> bytes | None:
        """The public key to which opens of a version are sealed; None if there is none."""
        return self.opening.get(version) or self.opening.get(ANY)
