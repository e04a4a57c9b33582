"""The file that a client is handed: whom to believe, who it is, and its secrets. JSON, for its owner only."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta

from flexspec_mq.daemon.files import read_private
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.agreement import OpeningSecrets, new_private_key, public_key, status_key
from flexspec_mq.keys.documents import (
    MAX_STATEMENT,
    Credential,
    DeploymentKey,
    KeyRole,
    Use,
    issue,
    read_credential,
    read_statement,
)
from flexspec_mq.keys.refusals import KeysRefused
from schemas.statement import ANY, Key, Statement, Version

FORMAT: Final = 1
_MAX_FILE = 2 * MAX_STATEMENT
_HINT = (
    "give the file of `flexspec-broker add-device` or `add-worker`; `flexspec-broker rotate` writes a new one"
)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it is; bytes are base64. Workers have a credential of the key that signs their statuses."""

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    deployment: Key
    credential: bytes
    private: Key
    statement: bytes
    opening: dict[Version, Key] = {}
    status: bytes | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """Who a client is, and what it knows.

    Attributes:
        deployment: public key of its deployment.
        signed_credential: as others are shown it.
        credential: the same, read.
        private: X25519 private key of the credential.
        signed_statement: the newest one when this was made.
        statement: the same, read.
        opening: private opening keys that a worker knows.
        status_credential: signed, of the key that signs a worker's statuses; empty in a device's file.
    """

    deployment: bytes
    signed_credential: bytes
    credential: Credential
    private: bytes = field(repr=False)
    signed_statement: bytes
    statement: Statement
    opening: OpeningSecrets = field(default=OpeningSecrets(), repr=False)
    status_credential: bytes = b""

    @classmethod
    def make(
        cls,
        deployment: DeploymentKey,
        role: KeyRole,
        name: str,
        signed_statement: bytes,
        *,
        versions: tuple[str, ...] = (),
        opening: OpeningSecrets | None = None,
    ) -> Self:
        """A new one, with a key pair and a serial of its own.

        Args:
            deployment: signs its credential.
            role: role of the identity.
            name: name on topics.
            signed_statement: the newest one, so that a client can begin before it has heard the broker.
            versions: versions that a worker may serve; empty is any.
            opening: all that the deployment knows; a worker is handed those of its versions.

        Raises:
            UsageError: as of `issue`, and `OpeningSecrets.only`.
        """
        private = new_private_key()
        signed = issue(deployment, role, name, public_key(private), versions)
        credential = read_credential(signed, deployment.public)
        status = b""
        if role is KeyRole.WORKER:
            own = status_key(private).public
            status = issue(deployment, role, name, own, versions, use=Use.STATUSES, serial=credential.serial)
        return cls(
            deployment.public,
            signed,
            credential,
            private,
            signed_statement,
            read_statement(signed_statement, deployment.public),
            OpeningSecrets() if opening is None else opening.only(versions),
            status,
        )

    def text(self) -> str:
        """As a file."""
        opening = {ANY: self.opening.master} if self.opening.master else dict(self.opening.keys)
        document = _Document(
            FORMAT,
            self.deployment,
            self.signed_credential,
            self.private,
            self.signed_statement,
            opening,
            self.status_credential or msgspec.UNSET,
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def read_identity(path: Path, role: KeyRole, name: str | None = None) -> KeyIdentity:
    """Read the file of a client.

    Args:
        path: path of the file.
        role: role that it must be for.
        name: name on topics that it must be for; None is any.

    Raises:
        UsageError: the file cannot be read, others may read it, or it is none of these.
    """
    leaked = "`flexspec-broker rotate` if somebody may have read it"
    data = read_private(path, _MAX_FILE + 1, "keys", lacking=_HINT, leaked=leaked)
    try:
        identity = _identity(data)
    except (msgspec.MsgspecError, ValueError, RecursionError, KeysRefused) as error:
        raise UsageError(f"{path} holds no keys of a client: {error}", hint=_HINT) from error
    credential = identity.credential
    if credential.role is not role or name not in {None, credential.name}:
        raise UsageError(
            f"the keys in {path} are those of the {credential.role} {credential.name},"
            f" and this is the {role}{'' if name is None else f' {name}'}",
            hint="give it the files of its own name",
        )
    return identity


def _identity(data: bytes) -> KeyIdentity:
    if len(data) > _MAX_FILE:
        raise ValueError(f"it has more than {_MAX_FILE} bytes")
    document = msgspec.json.decode(data, type=_Document)
    credential = read_credential(document.credential, document.deployment)
    if public_key(document.private) != credential.key:
        raise ValueError("the private key is none of the credential")
    status = document.status or b""
    if credential.role is KeyRole.WORKER:
        own = read_credential(status, document.deployment, Use.STATUSES).key
        if own != status_key(document.private).public:
            raise ValueError("the private key is none of the credential for statuses")
    keys = dict(document.opening)
    master = keys.pop(ANY, b"")
    return KeyIdentity(
        document.deployment,
        document.credential,
        credential,
        document.private,
        document.statement,
        read_statement(document.statement, document.deployment),
        OpeningSecrets(master) if master else OpeningSecrets(b"", keys),
        status,
    )
