"""Keys, and what is signed with them: msgpack under Ed25519 signatures.

A signature is over a domain prefix and the exact bytes that travel, so that a key set is never taken for a catalogue,
and nobody need encode a message a second time to check it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flexspec_mq.catalogue.invariants import fault_of
from flexspec_mq.catalogue.refusals import Reason, SignedRefused
from flexspec_mq.errors import LocalProtocolError, UsageError
from schemas.catalogue import FORMAT, KEY_ID, MAX_KEYS, MAX_PAYLOAD, Catalogue, KeySet, Signed

Body = TypeVar("Body", KeySet, Catalogue)

DOMAINS: Final[dict[type, bytes]] = {KeySet: b"flexspec key set 1\0", Catalogue: b"flexspec catalogue 1\0"}
_TITLES: Final[dict[type, str]] = {KeySet: "key set", Catalogue: "catalogue"}
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_MAX_KEY_FILE = 4096
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Beginning(msgspec.Struct, array_like=True):
    """Of every body, in whatever format the rest is."""

    format: int
    family: str


class PrivateKey:
    """An Ed25519 key that signs. Its file is PEM in PKCS #8, for its owner only."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.hex()})"

    @classmethod
    def generate(cls) -> Self:
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one.

        Raises:
            UsageError: the file cannot be read, others may read it, or it holds no such key.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_KEY_FILE)
        except OSError as error:
            raise UsageError(
                f"the key in {path} cannot be read: {error}", hint="`flexspec head keygen` makes one"
            ) from error
        if mode & 0o077:
            raise UsageError(
                f"others than its owner may read or write the key in {path}",
                hint=f"chmod 600 {path}; and make another key if somebody may have read it",
            )
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError(
                f"{path} holds no private key in PEM without a passphrase: {error}",
                hint="`flexspec head keygen` makes one",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"the key in {path} is none of Ed25519", hint="`flexspec head keygen` makes one")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write it into a new file that only its owner can read.

        Raises:
            UsageError: there is a file already, or none can be made.
        """
        text = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if path.exists():
                raise UsageError(
                    f"{path} is there already", hint="a key is never overwritten; give another file"
                ) from error
            raise UsageError(f"no key can be written to {path}: {error}", hint="give another file") from error

    def sign(self, data: bytes) -> bytes:
        """64 bytes, the same ones each time."""
        return self._key.sign(data)


def read_public(value: str) -> bytes:
    """A public key, given as 64 hex digits or as a file that holds them.

    Raises:
        UsageError: it is neither.
    """
    text = value
    if not _HEX.fullmatch(value):
        try:
            with Path(value).open("rb") as file:
                text = file.read(_MAX_KEY_FILE).decode("ascii", "replace").strip()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{value!r} is neither a public key nor a file that can be read: {error}",
                hint="a public key is 64 hex digits; `flexspec head keygen` shows it",
            ) from error
    if not _HEX.fullmatch(text):
        raise UsageError(
            f"{value} holds no public key",
            hint="a public key is 64 hex digits; `flexspec head keygen` shows it",
        )
    return bytes.fromhex(text)


def key_id(public: bytes) -> bytes:
    """What a signature names its key by: the first bytes of the SHA-256 of the public key."""
    return hashlib.sha256(public).digest()[:KEY_ID]


def encode(body: KeySet | Catalogue) -> bytes:
    """The bytes that are signed.

    Raises:
        UsageError: it breaks the bounds of its type or an invariant, so that nobody would accept it.
    """
    data = msgspec.msgpack.encode(_short(body))
    try:
        msgspec.msgpack.decode(data, type=type(body))
    except _UNREADABLE as error:
        raise UsageError(f"this {_TITLES[type(body)]} would be refused everywhere: {error}") from error
    if fault := fault_of(body):
        raise UsageError(f"this {_TITLES[type(body)]} would be refused everywhere: {fault}")
    return data


def seal(body: KeySet | Catalogue, keys: Sequence[PrivateKey]) -> bytes:
    """What is published: a body with a signature of each key.

    Raises:
        UsageError: nobody would accept the body, or it is too long.
        LocalProtocolError: no key, or too many.
    """
    if not 1 <= len(keys) <= MAX_KEYS:
        raise LocalProtocolError(
            f"a {_TITLES[type(body)]} is signed by 1 to {MAX_KEYS} keys, not {len(keys)}"
        )
    data = encode(body)
    signed = DOMAINS[type(body)] + data
    payload = msgspec.msgpack.encode(
        Signed(data, tuple(key_id(key.public) + key.sign(signed) for key in keys))
    )
    if len(payload) > MAX_PAYLOAD:
        raise UsageError(
            f"the {_TITLES[type(body)]} has {len(payload)} bytes, more than {MAX_PAYLOAD}",
            hint="retire versions, or give shorter names",
        )
    return payload


def cosigned(payload: bytes, kind: type[Body], family: str, keys: Sequence[PrivateKey]) -> bytes:
    """A signed message with signatures of more keys.

    Raises:
        SignedRefused: it cannot be read.
        UsageError: with them it would have too many.
    """
    found = opened(payload, kind, family)
    data = DOMAINS[kind] + found.signed
    ours: dict[bytes, bytes] = {key_id(key.public): key.sign(data) for key in keys}
    others: tuple[bytes, ...] = tuple(one for one in found.signatures if one[:KEY_ID] not in ours)
    signatures = (*others, *(name + signature for name, signature in ours.items()))
    signed = msgspec.msgpack.encode(Signed(found.signed, signatures))
    if len(signatures) > MAX_KEYS or len(signed) > MAX_PAYLOAD:
        raise UsageError(
            f"the {_TITLES[kind]} would have {len(signatures)} signatures and {len(signed)} bytes",
            hint=f"{MAX_KEYS} and {MAX_PAYLOAD} are the most; begin anew with --out",
        )
    return signed


@dataclass(frozen=True, slots=True)
class Opened(Generic[Body]):
    """A message that was read, and whose signatures nobody has looked at.

    Attributes:
        payload: as it came.
        signed: the bytes under the signatures, without their domain.
        body: what they say.
    """

    payload: bytes
    signed: bytes
    body: Body
    signatures: tuple[bytes, ...]

    def signers(self, keys: Iterable[bytes]) -> int:
        """How many of these public keys have signed it, each counted once."""
        data = DOMAINS[type(self.body)] + self.signed
        by_id = {key_id(key): key for key in keys}
        valid = set()
        for signature in self.signatures:
            key = by_id.get(signature[:KEY_ID])
            if key is not None and key not in valid and _verifies(key, signature[KEY_ID:], data):
                valid.add(key)
        return len(valid)


def opened(payload: bytes, kind: type[Body], family: str) -> Opened[Body]:
    """Read a message without a look at who signed it.

    Args:
        payload: as it came, of any length.
        kind: what it should be.
        family: that it should be of.

    Raises:
        SignedRefused: it is empty, too long, no such message, of another format or of another family.
    """
    title = _TITLES[kind]
    if not payload:
        raise SignedRefused(
            Reason.EMPTY,
            f"somebody has cleared the {title} of {family}",
            hint="publish it again; until then all goes on",
        )
    if len(payload) > MAX_PAYLOAD:
        raise SignedRefused(Reason.OVERSIZE, f"the {title} has {len(payload)} bytes, more than {MAX_PAYLOAD}")
    try:
        signed = msgspec.msgpack.decode(payload, type=Signed)
        beginning = msgspec.msgpack.decode(signed.body, type=_Beginning)
    except _UNREADABLE as error:
        raise SignedRefused(Reason.MALFORMED, f"this is no signed {title}: {error}") from error
    if beginning.format != FORMAT:
        raise SignedRefused(
            Reason.FORMAT,
            f"the {title} has format {beginning.format}; this program reads {FORMAT}",
            hint="update this program",
        )
    if beginning.family != family:
        raise SignedRefused(
            Reason.FAMILY, f"the {title} on the topic of {family} is of the family {beginning.family[:64]!r}"
        )
    try:
        body = msgspec.msgpack.decode(signed.body, type=kind)
    except _UNREADABLE as error:
        raise SignedRefused(Reason.MALFORMED, f"the {title} cannot be read: {error}") from error
    if fault := fault_of(body):
        raise SignedRefused(Reason.MALFORMED, fault)
    return Opened(payload, signed.body, body, signed.signatures)


def open_signed(
    payload: bytes, kind: type[Body], family: str, keys: Sequence[bytes], threshold: int = 1
) -> Opened[Body]:
    """Read a message that enough of these keys have signed.

    Args:
        payload: as it came, of any length.
        kind: what it should be.
        family: that it should be of.
        keys: public keys that count.
        threshold: how many of them must have signed.

    Raises:
        SignedRefused: it cannot be read, or too few have signed it.
    """
    found = opened(payload, kind, family)
    signers = found.signers(keys)
    if signers < threshold:
        raise SignedRefused(
            Reason.SIGNATURE,
            f"the {_TITLES[kind]} of {family} has {signers} valid signatures of keys that count, not {threshold}",
        )
    return found


def _verifies(key: bytes, signature: bytes, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):  # the latter of bytes that are no key
        return False
    return True


def _short(value: Any) -> Any:
    """As lists, without the last fields that hold their defaults."""
    if isinstance(value, tuple):
        return [_short(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    items = list(msgspec.structs.astuple(value))
    for field in reversed(msgspec.structs.fields(value)):
        if field.required or items[-1] != field.default:
            break
        items.pop()
    return [_short(item) for item in items]
