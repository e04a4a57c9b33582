"""The file that a client is handed: whom to believe, who it is, and its secrets. JSON, for its owner only."""

from functools import cached_property
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


class KeyIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """Who a client is, and what it knows, as its file has it; bytes are base64 there.

    Attributes:
        deployment: public key of its deployment.
        signed_credential: as others are shown it.
        private: X25519 private key of the credential.
        signed_statement: the newest one when this was made.
        opening_keys: private opening keys that a worker knows, by version; under `ANY` what all follow from.
        status_credential: signed, of the key that signs a worker's statuses; empty in a device's file.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    deployment: Key
    signed_credential: bytes = msgspec.field(name="credential")
    private: Key
    signed_statement: bytes = msgspec.field(name="statement")
    opening_keys: dict[Version, Key] = msgspec.field(name="opening", default_factory=dict)
    status_credential: bytes = msgspec.field(name="status", default=b"")

    def __repr__(self) -> str:
        """Without secrets."""
        return f"KeyIdentity of deployment {self.deployment.hex()[:8]}"

    @cached_property
    def credential(self) -> Credential:
        """The credential, read."""
        return read_credential(self.signed_credential, self.deployment)

    @cached_property
    def statement(self) -> Statement:
        """The statement, read."""
        return read_statement(self.signed_statement, self.deployment)

    @cached_property
    def opening(self) -> OpeningSecrets:
        """Private opening keys that a worker knows."""
        master = self.opening_keys.get(ANY, b"")
        return OpeningSecrets(master, {} if master else self.opening_keys)

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
        serial = read_credential(signed, deployment.public).serial
        known, status = OpeningSecrets(), b""
        if role is KeyRole.WORKER:
            own = status_key(private).public
            status = issue(deployment, role, name, own, versions, use=Use.STATUSES, serial=serial)
        if opening is not None:
            known = opening.only(versions)
        keys = {ANY: known.master} if known.master else dict(known.keys)
        return cls(FORMAT, deployment.public, signed, private, signed_statement, keys, status)

    def text(self) -> str:
        """As a file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"


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
    identity = msgspec.json.decode(data, type=KeyIdentity)
    credential, _ = identity.credential, identity.statement  # or they are none of the deployment
    if public_key(identity.private) != credential.key:
        raise ValueError("the private key is none of the credential")
    if credential.role is KeyRole.WORKER:
        own = read_credential(identity.status_credential, identity.deployment, Use.STATUSES).key
        if own != status_key(identity.private).public:
            raise ValueError("the private key is none of the credential for statuses")
    return identity
