"""Ed25519 keys that sign, in PEM (PKCS #8) without a passphrase."""

from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class SigningKey:
    """A private key.

    Attributes:
        public: the public key, 32 bytes.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()})"

    @classmethod
    def generate(cls) -> Self:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Read a key.

        Raises:
            ValueError: it is no such key; says what it is, to stand behind "this is" or "the file holds".
        """
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(f"no private key in PEM without a passphrase: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("a private key, but none of Ed25519")  # noqa: TRY004  as any other text of no use
        return cls(key)

    def pem(self) -> bytes:
        """The private key. It is the caller's to keep it from others."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """Sign: 64 bytes, the same ones each time."""
        return self._key.sign(data)


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the owner of a public key has signed this."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):  # the latter of bytes that are no key
        return False
    return True
