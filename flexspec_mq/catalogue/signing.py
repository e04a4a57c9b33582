"""Keys, and what is signed with them: msgpack under Ed25519 signatures.

A signature is over a domain prefix and the exact bytes that travel, so that a key set is never taken for a catalogue,
and nobody need encode a message a second time to check it.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import msgspec

from flexspec_mq.catalogue.naming import fault_of
from flexspec_mq.catalogue.refusals import Reason, SignedRefused
from flexspec_mq.daemon.files import read_private, sync
from flexspec_mq.ed25519 import SigningKey, verifies
from flexspec_mq.errors import LocalProtocolError, UsageError
from schemas.catalogue import FORMAT, KEY_ID, MAX_KEYS, MAX_PAYLOAD, Catalogue, KeySet, Signed

Body = TypeVar("Body", KeySet, Catalogue)

DOMAINS: Final[dict[type, bytes]] = {KeySet: b"flexspec key set 1\0", Catalogue: b"flexspec catalogue 1\0"}
_TITLES: Final[dict[type, str]] = {KeySet: "key set", Catalogue: "catalogue"}
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_MAX_KEY_FILE = 4096
_KEYGEN = "`flexspec head keygen` makes one"
_PUBLIC = "a public key is 64 hex digits; `flexspec head keygen` shows it"
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Beginning(msgspec.Struct, array_like=True):
    """The first fields of every body, in whatever format the rest is."""

    format: int
    family: str


class PrivateKey(SigningKey):
    """A key that signs catalogues or key sets, in a file for its owner only."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key.

        Raises:
            UsageError: the file cannot be read, others may read it, or it holds no such key.
        """
        leaked = "make another key if somebody may have read it"
        data = read_private(path, _MAX_KEY_FILE, "key", lacking=_KEYGEN, leaked=leaked)
        try:
            return cls.from_pem(data)
        except ValueError as error:
            raise UsageError(f"{path} holds {error}", hint=_KEYGEN) from error

    def save(self, path: Path) -> None:
        """Write the key into a new file that only its owner can read.

        Raises:
            UsageError: there is a file already, or none can be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.pem())
            sync(path)
        except OSError as error:
            if path.exists():
                raise UsageError(
                    f"{path} is there already", hint="a key is never overwritten; give another file"
                ) from error
            raise UsageError(f"no key can be written to {path}: {error}", hint="give another file") from error


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
                f"{value!r} is neither a public key nor a file that can be read: {error}", hint=_PUBLIC
            ) from error
    if not _HEX.fullmatch(text):
        raise UsageError(f"{value} holds no public key", hint=_PUBLIC)
    return bytes.fromhex(text)


def key_id(public: bytes) -> bytes:
    """The id by which a signature names its key: the first bytes of the SHA-256 of the public key."""
    return hashlib.sha256(public).digest()[:KEY_ID]


def encode(body: KeySet | Catalogue) -> bytes:
    """Encode a body as the bytes that are signed.

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
    """Encode what is published: a body with a signature of each key.

    Raises:
        UsageError: nobody would accept the body, it is too long, or has too many signatures.
        LocalProtocolError: no key.
    """
    if not keys:
        raise LocalProtocolError(f"nobody signs the {_TITLES[type(body)]}")
    data = encode(body)
    return _signed(type(body), data, [_signature(key, DOMAINS[type(body)] + data) for key in keys])


def cosigned(payload: bytes, kind: type[Body], family: str, keys: Sequence[PrivateKey]) -> bytes:
    """Add signatures of more keys to a signed message.

    Raises:
        SignedRefused: it cannot be read.
        UsageError: with them it would have too many, or be too long.
    """
    message = opened(payload, kind, family)
    ours: dict[bytes, bytes] = {
        key_id(key.public): _signature(key, DOMAINS[kind] + message.signed) for key in keys
    }
    others: list[bytes] = [signature for signature in message.signatures if signature[:KEY_ID] not in ours]
    return _signed(kind, message.signed, [*others, *ours.values()])


def _signature(key: PrivateKey, data: bytes) -> bytes:
    return key_id(key.public) + key.sign(data)


def _signed(kind: type, body: bytes, signatures: Sequence[bytes]) -> bytes:
    payload = msgspec.msgpack.encode(Signed(body, tuple(signatures)))
    if len(signatures) > MAX_KEYS or len(payload) > MAX_PAYLOAD:
        raise UsageError(
            f"the {_TITLES[kind]} has {len(signatures)} signatures, of {MAX_KEYS} at most, and {len(payload)} bytes, "
            f"of {MAX_PAYLOAD}",
            hint="retire versions, give shorter names, or sign with fewer keys",
        )
    return payload


@dataclass(frozen=True, slots=True)
class Opened(Generic[Body]):
    """A message that was read, and whose signatures nobody has looked at.

    Attributes:
        payload: bytes as they came.
        signed: bytes under the signatures, without their domain.
        body: the same, read.
    """

    payload: bytes
    signed: bytes
    body: Body
    signatures: tuple[bytes, ...]

    def signers(self, keys: Iterable[bytes]) -> int:
        """How many of these public keys have signed it, each counted once."""
        return _signers(type(self.body), Signed(self.signed, self.signatures), keys)


def signed_later(payload: bytes, kind: type[Body], keys: Iterable[bytes], threshold: int) -> bool:
    """Whether this is a message of a format that only later programs read, which enough of these keys have signed."""
    try:
        signed = msgspec.msgpack.decode(payload, type=Signed)
        beginning = msgspec.msgpack.decode(signed.body, type=_Beginning)
    except _UNREADABLE:
        return False
    return beginning.format > FORMAT and _signers(kind, signed, keys) >= threshold


def _signers(kind: type, message: Signed, keys: Iterable[bytes]) -> int:
    data = DOMAINS[kind] + message.body
    by_id = {key_id(key): key for key in keys}
    valid = set()
    for signature in message.signatures:
        key = by_id.get(signature[:KEY_ID])
        if key is not None and key not in valid and verifies(key, signature[KEY_ID:], data):
            valid.add(key)
    return len(valid)


def opened(payload: bytes, kind: type[Body], family: str) -> Opened[Body]:
    """Read a message without a look at who signed it.

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

    Raises:
        SignedRefused: it cannot be read, or too few have signed it.
    """
    message = opened(payload, kind, family)
    signers = message.signers(keys)
    if signers < threshold:
        raise SignedRefused(
            Reason.SIGNATURE,
            f"the {_TITLES[kind]} of {family} has {signers} valid signatures of keys that count, not {threshold}",
        )
    return message


def _short(value: Any) -> Any:
    """Turn structs into lists, without the last fields that hold their defaults."""
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
