"""The deployment's key: Ed25519, over a domain and the exact bytes that travel.

The domain keeps a credential from ever being taken for a statement. Bytes travel as ``body || signature``.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from flexspec_mq.ed25519 import SigningKey, verifies
from flexspec_mq.keys.refusals import KeyReason, KeysRefused

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

SIGNATURE: Final = 64
"""Bytes of a signature."""


class DeploymentKey(SigningKey):
    """The key that signs for a deployment. Only its administrator holds it; every client has its public part."""

    def signed(self, domain: bytes, body: bytes) -> bytes:
        """`body` with its signature behind it."""
        return body + self.sign(domain + body)


def verified(public: bytes, domain: bytes, signed: bytes) -> bytes | None:
    """The body of what `DeploymentKey.signed` made; None if another key signed it, or for another domain."""
    body, signature = signed[:-SIGNATURE], signed[-SIGNATURE:]
    return body if body and verifies(public, signature, domain + body) else None


def read_signed(
    kind: type[DocumentT], data: bytes, public: bytes, domain: bytes, reason: KeyReason, most: int
) -> DocumentT:
    """Read a document that a deployment signed.

    Args:
        kind: type of the document.
        data: bytes as they came, of any length.
        public: public key of the deployment.
        domain: domain that it was signed for.
        reason: reason of a refusal; the document's name in the refusal's words as well.
        most: largest number of bytes.

    Raises:
        KeysRefused: the deployment has not signed it, or it is none that this program reads.
    """
    if len(data) > most:
        raise KeysRefused(reason, f"a {reason} has {len(data)} bytes, more than {most}")
    body = verified(public, domain, data)
    if body is None:
        raise KeysRefused(reason, f"the {reason} is not signed by this deployment")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise KeysRefused(
            reason, f"the {reason} cannot be read: {error}", hint="update this program"
        ) from error
