"""Who may connect to a broker: what its ``identities.json`` holds."""

from __future__ import annotations

import msgspec

from broker.settings import PasswordHash, Role, User
from flexspec_mq.share_groups import ShareGroups


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect.

    Attributes:
        password: its hash.
        versions: of a worker: those that it may serve; empty is any.
        serial: of its client certificate, hexadecimal; empty without one.
    """

    role: Role
    password: str
    versions: tuple[str, ...] = ()
    serial: str = ""


class Identities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``identities.json`` holds.

    Attributes:
        address: host:port by which clients reach the broker.
        names: in the server's certificate; empty without TLS.
        client_certificates: clients need one, beside their password.
        share_key: of `ShareGroups`.
        revision: of this file; one more with each change.
        revoked: serials of certificates that are not taken any more.
    """

    address: str
    names: tuple[str, ...]
    client_certificates: bool
    share_key: str
    revision: int = 0
    clients: dict[str, Identity] = {}
    revoked: tuple[str, ...] = ()

    @property
    def users(self) -> tuple[User, ...]:
        """For Mosquitto's files."""
        return tuple(
            User(name, one.role, PasswordHash(one.password), one.versions)
            for name, one in self.clients.items()
        )

    @property
    def groups(self) -> ShareGroups:
        """All groups of workers."""
        return ShareGroups(self.share_key)

    @property
    def only_version(self) -> str:
        """The one that all workers serve; empty if there are more, or one may serve any."""
        workers = [one for one in self.clients.values() if one.role is Role.WORKER]
        versions = {version for one in workers for version in one.versions}
        return versions.pop() if len(versions) == 1 and all(one.versions for one in workers) else ""

    def with_clients(self, clients: dict[str, Identity]) -> Identities:
        """The same, with some clients new or changed."""
        return msgspec.structs.replace(self, clients=self.clients | clients)
