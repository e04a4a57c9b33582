"""What a deployment says of now: opening keys of its versions, and which credentials are revoked.

It is signed, and retained on `topics.statement_topic`. A reader never goes back to a lower serial. Whoever runs the
broker can withhold a newer one, and no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flexspec_mq.errors import UsageError
from flexspec_mq.keys.credential import Key, Serial
from flexspec_mq.keys.opening import ANY
from flexspec_mq.keys.refusals import Reason
from flexspec_mq.keys.signing import DeploymentKey, read_signed

DOMAIN: Final = b"flexspec statement 1\0"
FORMAT: Final = 1
MAX_OPENING, MAX_REVOKED = 256, 16_384
MAX_STATEMENT: Final = 256 * 1024
"""Bytes of a statement with its signature: what the broker takes as one message."""

Version = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]{1,64}|\*)$(?!\n)")]


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """What holds until the next one.

    Attributes:
        format: of this array; the one that is read here is `FORMAT`.
        serial: higher than of any earlier one.
        opening: version, or `ANY` for those that are not named → X25519 public key of its opens.
        revoked: serials of credentials that nobody may believe any more.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    serial: Annotated[int, Meta(ge=1, le=2**53)]
    opening: Annotated[dict[Version, Key], Meta(max_length=MAX_OPENING)]
    revoked: Annotated[frozenset[Serial], Meta(max_length=MAX_REVOKED)]

    def opening_of(self, version: str) -> bytes | None:
        """The public key to which opens of a version are sealed; None if there is none."""
        return self.opening.get(version) or self.opening.get(ANY)


def sign_statement(
    deployment: DeploymentKey, serial: int, opening: Mapping[str, bytes], revoked: Iterable[bytes]
) -> bytes:
    """Make a statement.

    Args:
        deployment: signs it.
        serial: higher than of any earlier one.
        opening: as `OpeningSecrets.public` gives them.
        revoked: serials of credentials.

    Raises:
        UsageError: there is too much in it.
    """
    gone = sorted(set(revoked))
    if len(opening) > MAX_OPENING or len(gone) > MAX_REVOKED:
        raise UsageError(
            f"a statement holds at most {MAX_OPENING} versions and {MAX_REVOKED} revoked credentials,"
            f" not {len(opening)} and {len(gone)}",
            hint="make a new deployment key and hand out all identities again: then nothing need be revoked",
        )
    body = msgspec.msgpack.encode([FORMAT, serial, dict(sorted(opening.items())), gone])
    msgspec.msgpack.decode(body, type=Statement)
    return deployment.signed(DOMAIN, body)


def read_statement(payload: bytes, deployment: bytes) -> Statement:
    """Read a statement of a deployment.

    Args:
        payload: as it came, of any length.
        deployment: its public key.

    Raises:
        KeysRefused: the deployment has not signed it, or it is none that this program reads.
    """
    return read_signed(Statement, payload, deployment, DOMAIN, Reason.STATEMENT, MAX_STATEMENT)
