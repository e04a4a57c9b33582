"""The deployment's key: Ed25519, over a domain and the exact bytes that travel.

The domain keeps a credential from ever being taken for a statement. What travels is ``body || signature``.
"""

from __future__ import annotations

from typing import Final, Self, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flexspec_mq.errors import UsageError
from flexspec_mq.keys.refusals import KeysRefused, Reason

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

PUBLIC: Final = 32
"""Bytes of a public key, of Ed25519 and of X25519."""
SIGNATURE: Final = 64
"""Bytes of a signature."""


class DeploymentKey:
    """What signs for a deployment. Only its administrator holds it.

    Attributes:
        public: 32 bytes, which every client of the deployment has.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"DeploymentKey(public={self.public.hex()})"

    @classmethod
    def generate(cls) -> Self:
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of_pem(cls, text: str) -> Self:
        """What `pem` wrote.

        Raises:
            UsageError: it is no private key of Ed25519 in PEM without a passphrase.
        """
        try:
            key = load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError(f"this is no private key in PEM without a passphrase: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError("this is a private key, but none of Ed25519")
        return cls(key)

    def pem(self) -> str:
        """The private key in PEM, PKCS #8. It is the caller's to keep it from others."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def signed(self, domain: bytes, body: bytes) -> bytes:
        """`body` with its signature behind it."""
        return body + self._key.sign(domain + body)


def verified(public: bytes, domain: bytes, signed: bytes) -> bytes | None:
    """The body of what `DeploymentKey.signed` made; None if another key signed it, or for another domain."""
    if len(signed) <= SIGNATURE:
        return None
    body, signature = signed[:-SIGNATURE], signed[-SIGNATURE:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain + body)
    except (InvalidSignature, ValueError):  # the latter of bytes that are no key
        return None
    return body


def read_signed(
    kind: type[DocumentT], data: bytes, public: bytes, domain: bytes, reason: Reason, most: int
) -> DocumentT:
    """Read a document that a deployment signed.

    Args:
        kind: of document.
        data: as it came, of any length.
        public: the deployment's key.
        domain: that it was signed for.
        reason: of a refusal; the document's name in the refusal's words as well.
        most: bytes.

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
