"""The two agreements of a session: one for its opens, one with the worker that answers.

Both are Diffie-Hellman over X25519 (RFC 7748), with HKDF-SHA256 (RFC 5869) over all shares. The meaning of a
session goes into the derivation, so that keys differ where anything does: who they are, which session, version and
credentials, and whether messages are sealed.

The second is the triple Diffie-Hellman of X3DH without prekeys (Signal, 2016): a share of each long-term key with the
other side's ephemeral one proves both identities, the share of both ephemeral keys keeps the text secret should
long-term keys be stolen later.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flexspec_mq.keys.refusals import KeyReason, KeysRefused

KEY: Final = 32
"""Bytes of a key that tags or seals."""

_OPENING, _SESSION = "flexspec opening 1", "flexspec session 1"


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The meaning of a session, which goes into the derivation of its keys.

    Attributes:
        edge: name of the device.
        device: serial of its credential.
        version: target version.
        number: number of the session, at that device.
        ephemeral: the device's X25519 public key for this session alone.
        sealed: whether messages are sealed, or tagged only.
    """

    edge: str
    device: bytes
    version: str
    number: int
    ephemeral: bytes
    sealed: bool

    def opening_key(self, shares: tuple[bytes, bytes], opening: bytes) -> bytes:
        """Key of opens, device → workers of the version.

        Args:
            shares: shares of the version's opening key with the device's ephemeral key, and with its long-term key.
            opening: public opening key of the version.
        """
        return _derived(_OPENING, shares, (*astuple(self), opening), KEY)

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
        keys = _derived(_SESSION, shares, (*astuple(self), worker, serial, ephemeral), 2 * KEY)
        return keys[:KEY], keys[KEY:]


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
