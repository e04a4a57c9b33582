"""Signing and reading what a deployment says of now, which is retained on `topics.statement_topic`.

Whoever runs the broker can withhold a newer one, and no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from flexspec_mq.errors import UsageError
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.keys.signing import DeploymentKey, read_signed
from schemas.statement import FORMAT, MAX_OPENING, MAX_REVOKED, Statement

DOMAIN: Final = b"flexspec statement 1\0"
MAX_STATEMENT: Final = 256 * 1024
"""Bytes of a statement with its signature: what the broker takes as one message."""


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

    Raises:
        KeysRefused: the deployment has not signed it, or it is none that this program reads.
    """
    return read_signed(Statement, payload, deployment, DOMAIN, KeyReason.STATEMENT, MAX_STATEMENT)
