"""Who an identity is, signed by its deployment: role, name, versions, and its X25519 key.

A credential has no last day: devices have no clock that they could trust. The statement revokes it, by its serial.
It is public; each side sends it once to the other for a session.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.refusals import KeyReason
from flexspec_mq.keys.signing import DeploymentKey, read_signed
from schemas.statement import MAX_CREDENTIAL, SERIAL, Key, Serial

DOMAIN: Final = b"flexspec credential 1\0"
FORMAT: Final = 1
MAX_VERSIONS: Final = 32

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]


class KeyRole(StrEnum):
    """Which side of a session an identity may be."""

    EDGE = "edge"
    WORKER = "worker"


class Credential(msgspec.Struct, frozen=True, array_like=True):
    """A deployment's word on an identity.

    Attributes:
        format: format of this array; `FORMAT` is the one that is read here.
        name: as on topics.
        versions: versions that a worker may serve; empty is any, and for a device.
        key: X25519 public key of the identity.
        serial: serial number by which it is revoked.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    role: KeyRole
    name: Name
    versions: Annotated[tuple[Name, ...], Meta(max_length=MAX_VERSIONS)]
    key: Key
    serial: Serial

    def serves(self, version: str) -> bool:
        """Whether it is of a worker that may serve `version`."""
        return self.role is KeyRole.WORKER and (not self.versions or version in self.versions)


def new_private_key() -> bytes:
    """An X25519 private key, 32 bytes."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The public key of an X25519 private key, both 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def issue(
    deployment: DeploymentKey, role: KeyRole, name: str, public: bytes, versions: tuple[str, ...] = ()
) -> bytes:
    """Make a credential with a new serial.

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
    credential = Credential(FORMAT, role, name, tuple(versions), public, secrets.token_bytes(SERIAL))
    body = msgspec.msgpack.encode(credential)
    msgspec.msgpack.decode(body, type=Credential)
    return deployment.signed(DOMAIN, body)


def read_credential(data: bytes, deployment: bytes) -> Credential:
    """Read a credential of a deployment. Whether it was revoked, the statement says.

    Raises:
        KeysRefused: the deployment has not signed it, or it is none that this program reads.
    """
    return read_signed(Credential, data, deployment, DOMAIN, KeyReason.CREDENTIAL, MAX_CREDENTIAL)
