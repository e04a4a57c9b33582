"""The two agreements of a session: one for its opens, one with the worker that answers.

Both are Diffie-Hellman over X25519 (RFC 7748), with HKDF-SHA256 (RFC 5869) over all shares. The meaning of a
session goes into the derivation, so that keys differ where anything does: who they are, which session, version and
credentials.

The second is the triple Diffie-Hellman of X3DH without prekeys (Signal, 2016): a share of each long-term key with the
other side's ephemeral one proves both identities, the share of both ephemeral keys keeps the text secret should
long-term keys be stolen later.

An open is sealed before anybody knows which worker will answer it: to the opening key of its version, an X25519 pair
that follows from a secret of the deployment. Its public part is in the statement; its private part is known to the
workers that may serve the version. Versions that the statement does not name have a pair in common, under the name
``*``, which workers of any version know.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flexspec_mq.ed25519 import SigningKey
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.statement import ANY

KEY: Final = 32
"""Bytes of a key that seals."""

_OPENING, _SESSION = "flexspec opening 1", "flexspec session 1"
_OPENING_KEY, _STATUS_KEY = b"flexspec opening key 1\0", b"flexspec status key 1\0"
_SEALED = True
"""Mode of protection in version 1; another one would give other keys."""


def new_private_key() -> bytes:
    """An X25519 private key, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The public key of an X25519 private key, both 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def status_key(private: bytes) -> SigningKey:
    """The key with which the owner of an X25519 private key signs its statuses: one file holds one secret."""
    kdf = HKDF(SHA256(), length=32, salt=None, info=_STATUS_KEY)
    return SigningKey(Ed25519PrivateKey.from_private_bytes(kdf.derive(private)))


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The meaning of a session, which goes into the derivation of its keys.

    Attributes:
        edge: name of the device.
        device: serial of its credential.
        version: target version.
        number: number of the session, at that device.
        ephemeral: the device's X25519 public key for this session alone.
    """

    edge: str
    device: bytes
    version: str
    number: int
    ephemeral: bytes

    def opening_key(self, shares: tuple[bytes, bytes], opening: bytes) -> bytes:
        """Key of opens, device → workers of the version.

        Args:
            shares: shares of the version's opening key with the device's ephemeral key, and with its long-term key.
            opening: public opening key of the version.
        """
        return _derived(_OPENING, shares, (*astuple(self), _SEALED, opening), KEY)

    def session_keys(
        self, shares: tuple[bytes, bytes, bytes], worker: str, serial: bytes, ephemeral: bytes
    ) -> tuple[bytes, bytes]:
        """Keys with one worker: of what the device sends, and of what the worker sends.

        Args:
            shares: device's long-term × worker's ephemeral, ephemeral × long-term, ephemeral × ephemeral.
            worker: name of the worker.
            serial: serial of its credential.
            ephemeral: X25519 public key of the worker, for this session alone.
        """
        keys = _derived(_SESSION, shares, (*astuple(self), _SEALED, worker, serial, ephemeral), 2 * KEY)
        return keys[:KEY], keys[KEY:]


@dataclass(frozen=True, slots=True)
class OpeningSecrets:
    """Private opening keys that somebody knows.

    Attributes:
        master: 32 bytes from which all follow; empty if not known.
        keys: version → private key of 32 bytes, for those who know some only.
    """

    master: bytes = field(default=b"", repr=False)
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def private_key(self, version: str) -> bytes | None:
        """The private key of a version, or of `ANY`; None if it is not known."""
        if self.master:
            kdf = HKDF(SHA256(), length=32, salt=None, info=_OPENING_KEY + version.encode())
            return kdf.derive(self.master)
        return self.keys.get(version)

    def candidates(self, version: str) -> tuple[bytes, ...]:
        """Private keys that an open of a version may be sealed to, likeliest first.

        A device whose statement does not name the version yet takes the key of `ANY`.
        """
        return tuple(key for key in (self.private_key(version), self.private_key(ANY)) if key is not None)

    def only(self, versions: Iterable[str]) -> OpeningSecrets:
        """Secrets for a worker of these versions; all if there are none.

        Raises:
            UsageError: one is not known.
        """
        keys: dict[str, bytes] = {}
        for version in versions:
            key = self.private_key(version)
            if key is None:
                raise UsageError(f"the opening key of version {version} is not known here")
            keys[version] = key
        return OpeningSecrets(b"", keys) if keys else self

    def public(self, versions: Iterable[str]) -> dict[str, bytes]:
        """Public keys for a statement: those of `versions` and the one of `ANY`, as far as known."""
        known = ((version, self.private_key(version)) for version in (*versions, ANY))
        return {version: public_key(private) for version, private in known if private is not None}


def new_opening_secrets() -> OpeningSecrets:
    """Secrets that nobody knows yet."""
    return OpeningSecrets(secrets.token_bytes(32))


def share(private: X25519PrivateKey, public: bytes) -> bytes:
    """Compute the share that both holders of two key pairs can compute, and nobody else.

    Raises:
        KeysRefused: the public key is one of the few with which the share would be known to all.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise KeysRefused(KeyReason.FORGED, "a public key is of small order") from error


def _derived(label: str, shares: tuple[bytes, ...], context: tuple[object, ...], size: int) -> bytes:
    info = msgspec.msgpack.encode((label, *context))
    return HKDF(SHA256(), length=size, salt=None, info=info).derive(b"".join(shares))
