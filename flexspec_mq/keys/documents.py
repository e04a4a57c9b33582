"""Documents that a deployment signs: credentials, which say who an identity is, and the statement of what holds now.

Ed25519 over a domain and the exact bytes that travel, ``body || signature``. The domain keeps a credential from ever
being taken for a statement.

A credential has no last day: the statement revokes it, by its serial, and that has one, so that a newer statement
cannot be withheld for ever. It is public; each side sends it once to the other for a session. A worker has a second one
of the same serial, whose key signs its statuses and which travels with these only. The statement is retained on
`topics.statement_topic`: whoever runs the broker can withhold a newer one until the older one expires, and no more than
that.
"""

import binascii
import secrets
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from flexspec_mq import topics
from flexspec_mq.ed25519 import SigningKey, verifies
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.statement import FORMAT, MAX_CREDENTIAL, MAX_OPENING, MAX_REVOKED, SERIAL, Key, Serial, Statement

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

MAX_VERSIONS: Final = 32
MAX_STATEMENT: Final = 256 * 1024
"""Bytes of a statement with its signature: what the broker takes as one message."""
_SIGNATURE: Final = 64
_STATEMENT: Final = b"flexspec statement 1\0"
_CREDENTIAL_FORMAT: Final = 1
_STATUS: Final = b"flexspec status 1\0"
_FIELD, _END = b',"signature":"', b'"}'
_BASE64: Final = 88
"""Characters of an Ed25519 signature."""

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]


class KeyRole(StrEnum):
    """Which side of a session an identity may be."""

    EDGE = "edge"
    WORKER = "worker"


class Use(Enum):
    """Use of a credential's key, by the domain under which the deployment signs it."""

    SESSIONS = b"flexspec credential 1\0"
    STATUSES = b"flexspec status credential 1\0"


class Credential(msgspec.Struct, frozen=True, array_like=True):
    """A deployment's word on an identity.

    Attributes:
        format: format of this array; 1 is the one that is read here.
        name: as on topics.
        versions: versions that a worker may serve; empty is any, and for a device.
        key: X25519 public key of the identity; to sign statuses, an Ed25519 one.
        serial: serial number by which it is revoked.
    """

    format: Annotated[int, Meta(ge=_CREDENTIAL_FORMAT, le=_CREDENTIAL_FORMAT)]
    role: KeyRole
    name: Name
    versions: Annotated[tuple[Name, ...], Meta(max_length=MAX_VERSIONS)]
    key: Key
    serial: Serial

    def serves(self, version: str) -> bool:
        """Whether it is of a worker that may serve `version`."""
        return self.role is KeyRole.WORKER and (not self.versions or version in self.versions)


class DeploymentKey(SigningKey):
    """The key that signs for a deployment. Only its administrator holds it; every client has its public part."""

    def signed(self, domain: bytes, body: bytes) -> bytes:
        """`body` with its signature behind it."""
        return body + self.sign(domain + body)


def issue(
    deployment: DeploymentKey,
    role: KeyRole,
    name: str,
    public: bytes,
    versions: tuple[str, ...] = (),
    *,
    use: Use = Use.SESSIONS,
    serial: bytes | None = None,
) -> bytes:
    """Make a credential, with a new serial unless one is given.

    A worker without `versions` may serve any.

    Raises:
        UsageError: a name cannot stand in a topic, there are too many versions, or they are those of a device.
    """
    topics.checked(role.value, name)
    for version in versions:
        topics.checked("version", version)
    if len(versions) > MAX_VERSIONS:
        raise UsageError(
            f"{name} is to serve {len(versions)} versions, more than the {MAX_VERSIONS} that a credential can name",
            hint="give fewer, or none: then it may serve any",
        )
    if versions and role is not KeyRole.WORKER:
        raise UsageError("a device serves no versions")
    credential = Credential(
        _CREDENTIAL_FORMAT, role, name, tuple(versions), public, serial or secrets.token_bytes(SERIAL)
    )
    body = msgspec.msgpack.encode(credential)
    msgspec.msgpack.decode(body, type=Credential)
    return deployment.signed(use.value, body)


def read_credential(data: bytes, deployment: bytes, use: Use = Use.SESSIONS) -> Credential:
    """Read a credential of a deployment. Whether it was revoked, the statement says.

    Raises:
        KeysRefused: the deployment has not signed it for that use, or it is none that this program reads.
    """
    return _read_signed(Credential, data, deployment, use.value, KeyReason.CREDENTIAL, MAX_CREDENTIAL)


def sign_statement(
    deployment: DeploymentKey,
    serial: int,
    opening: Mapping[str, bytes],
    revoked: Iterable[bytes],
    expires: int,
) -> bytes:
    """Make a statement.

    Args:
        deployment: signs it.
        serial: higher than of any earlier one.
        opening: as `OpeningSecrets.public` gives them.
        revoked: serials of credentials.
        expires: seconds since the Unix epoch.

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
    body = msgspec.msgpack.encode([FORMAT, serial, dict(sorted(opening.items())), gone, expires])
    msgspec.msgpack.decode(body, type=Statement)
    return deployment.signed(_STATEMENT, body)


def read_statement(payload: bytes, deployment: bytes) -> Statement:
    """Read a statement of a deployment.

    Raises:
        KeysRefused: the deployment has not signed it, or it is none that this program reads.
    """
    return _read_signed(Statement, payload, deployment, _STATEMENT, KeyReason.STATEMENT, MAX_STATEMENT)


def _read_signed(
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
    body, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
    if not body or not verifies(public, signature, domain + body):
        raise KeysRefused(reason, f"the {reason} is not signed by this deployment")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise KeysRefused(
            reason, f"the {reason} cannot be read: {error}", hint="update this program"
        ) from error


def sign_status(document: bytes, key: SigningKey) -> bytes:
    """Put a signature into a JSON object that is not empty, as its last field.

    It is over the bytes as they travel without that field, so nobody encodes a document a second time to check it.
    """
    signature = binascii.b2a_base64(key.sign(_STATUS + document), newline=False)
    return document[:-1] + _FIELD + signature + _END


def is_signed(payload: bytes, public: bytes) -> bool:
    """Whether the owner of an Ed25519 public key has signed a status."""
    body, field, rest = payload.rpartition(_FIELD)
    if not field or len(rest) != _BASE64 + len(_END) or not rest.endswith(_END):
        return False
    try:
        signature = binascii.a2b_base64(rest[:_BASE64], strict_mode=True)
    except binascii.Error:
        return False
    return verifies(public, signature, _STATUS + body + b"}")
