"""Who may connect to a broker: what its ``identities.json`` holds."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from broker.settings import PasswordHash, Role, User
from flexspec_mq.errors import BrokerError
from flexspec_mq.keys.documents import read_statement
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.settings.values import address as host_and_port
from flexspec_mq.share_groups import ShareGroups
from schemas.statement import Statement


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client that may connect.

    Attributes:
        password: hash of its password.
        versions: versions that a worker may serve; empty is any.
        edges: devices that an asker may ask; empty is any.
        serial: serial of its client certificate, hexadecimal; empty without one.
        credentials: serials of those that hold, hexadecimal, the newest last; empty without keys.
        site: site to whose broker it connects; empty is the central one.
        address: host:port of a site's broker; empty for other roles.
    """

    role: Role
    password: PasswordHash
    versions: tuple[str, ...] = ()
    serial: str = ""
    credentials: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    site: str = ""
    address: str = ""


class PublicKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public part of a deployment's keys.

    Attributes:
        deployment: public part of the key that signs.
        statement: the newest one, as it is published.
        unsigned: serials of credentials that the next statement will revoke, hexadecimal.
    """

    deployment: bytes
    statement: bytes
    unsigned: tuple[str, ...] = ()

    def read(self) -> Statement:
        """Read the statement.

        Raises:
            BrokerError: it is none of this deployment.
        """
        try:
            return read_statement(self.statement, self.deployment)
        except KeysRefused as error:
            raise BrokerError(
                f"the statement in identities.json cannot be used: {error.message}",
                hint="copy the file back from a backup; no command writes such a file",
            ) from error


class Identities(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Contents of ``identities.json``.

    Attributes:
        address: host:port by which clients reach the broker.
        names: names in the server's certificate; empty without TLS.
        client_certificates: whether clients need one, beside their password.
        share_key: key of `ShareGroups`; empty at a site.
        share_groups: groups of the versions that workers at a site serve; empty for the central broker.
        revision: number of this file; one more with each change.
        revoked: serials of certificates that are not taken any more.
        keys: keys of the deployment; None without, and at a site.
        site: name of this broker at the central one; empty for that one itself.
        centre: host:port by which a site reaches the central broker.
    """

    address: str
    names: tuple[str, ...]
    client_certificates: bool
    share_key: str
    revision: int = 0
    clients: dict[str, Client] = {}
    revoked: tuple[str, ...] = ()
    keys: PublicKeys | None = None
    site: str = ""
    centre: str = ""
    share_groups: dict[str, str] = {}

    @property
    def users(self) -> tuple[User, ...]:
        """For Mosquitto's files."""
        return tuple(
            User(name, c.role, c.password, c.versions, c.edges, c.site) for name, c in self.clients.items()
        )

    @property
    def groups(self) -> ShareGroups:
        """All groups of workers."""
        return ShareGroups(self.share_key, self.share_groups)

    @cached_property
    def only_version(self) -> str:
        """The version that all workers serve; empty if there are more, or one may serve any."""
        workers = [worker for worker in self.clients.values() if worker.role is Role.WORKER]
        versions = self.versions
        return versions[0] if len(versions) == 1 and all(worker.versions for worker in workers) else ""

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions to which workers are pinned."""
        return tuple(sorted({version for client in self.clients.values() for version in client.versions}))

    def address_for(self, client: Client) -> str:
        """host:port of the broker that a client connects to."""
        site = self.clients.get(client.site)
        return self.address if site is None else site.address

    def at_site(self, site: str) -> Identities:
        """Identities for a site's broker, whose folder cannot change them: clients that connect to it.

        Groups of workers are known there only as far as it has some, since who knows one can take what it is sent.
        """
        clients = {name: client for name, client in self.clients.items() if client.site == site}
        versions = {version for client in clients.values() for version in client.versions}
        address = self.clients[site].address
        return msgspec.structs.replace(
            self,
            address=address,
            names=self.names and host_and_port(address)[:1],
            share_key="",
            share_groups={version: self.groups.group_of(version) for version in sorted(versions)},
            clients=clients,
            keys=None,
            site=site,
            centre=self.address,
        )

    def with_clients(self, clients: dict[str, Client]) -> Identities:
        """The same, with some clients new or changed."""
        return msgspec.structs.replace(self, clients=self.clients | clients)

    def with_unsigned(self, serials: Iterable[str]) -> Identities:
        """The same, with credentials that the next statement is to revoke: the key that signs is not here now."""
        if self.keys is None:
            return self
        unsigned = (*self.keys.unsigned, *serials)
        return msgspec.structs.replace(self, keys=msgspec.structs.replace(self.keys, unsigned=unsigned))
