"""A broker's identities on disk: who may connect, as what, and what each was given.

``broker.toml`` has the settings of the listener, ``identities.json`` who may connect (of passwords only hashes) and
the signed statement, ``tls`` the certificates, ``keys`` what signs, ``hand-out`` what clients are to be given,
``run`` what Mosquitto reads and writes. Commands change all but the last; `flexspec-broker run` sees that, has
Mosquitto read its files again and publishes the statement.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from broker.announcing import OWN_NAME
from broker.deployment import certificates
from broker.deployment.applied_state import AppliedState
from broker.deployment.bundles import (
    BROKER_SETTINGS,
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    IDENTITIES,
    LOGIN,
    TLS,
    ClientBundles,
)
from broker.deployment.identities import Client, Identities
from broker.deployment.secret_keys import KEY_ROLES, KeptElsewhere, SecretKeys, outgrown
from broker.files import private_folder, read_text, rewrite_private, write_private
from broker.settings import CENTRE_NAME, Bridge, PasswordHash, Role, ServerTls, User
from flexspec_mq.daemon.files import alone
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.settings.values import address as host_and_port
from flexspec_mq.share_groups import new_groups
from flexspec_mq.topics import ANYBODY, open_share
from flexspec_mq.transport.arguments import LinkOptions, link_settings
from schemas.statement import ANY

KEYS, HAND_OUT = "keys", "hand-out"
_EDITING = "editing.lock"


class Deployment:
    """The folder of one broker, which `init` makes.

    Changes raise `UsageError` for a name that is not known, `KeptElsewhere` where a key that is needed is not here, and
    `OSError` where something cannot be written.

    Attributes:
        bundles: folders of what clients are given.
        keys: secrets of the deployment, which may be kept elsewhere.
        applied: state that a running broker has applied.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory.resolve()
        self.settings_file = self.directory / BROKER_SETTINGS
        self.keys = SecretKeys(self.directory / KEYS, clock)
        self.applied = AppliedState(self.directory)
        self.bundles = ClientBundles(self.directory / HAND_OUT, self.directory / TLS, self.keys)

    @property
    def exists(self) -> bool:
        """Whether there is a deployment."""
        return (self.directory / IDENTITIES).exists()

    def load(self) -> Identities:
        """Read who may connect.

        Raises:
            BrokerError: there is no deployment, or its file is none.
        """
        path = self.directory / IDENTITIES
        if not self.exists:
            raise BrokerError(
                f"{self.directory} holds no broker", hint="make one: `flexspec-broker init DIR`"
            )
        try:
            return msgspec.json.decode(read_text(path), type=Identities)
        except msgspec.DecodeError as error:
            raise BrokerError(
                f"{path} cannot be used: {error}",
                hint="copy it back from a backup; no command writes such a file",
            ) from error

    def stamp(self) -> tuple[int, int]:
        """Time and inode of the file of identities, which differ after each change."""
        stat = (self.directory / IDENTITIES).stat()
        return stat.st_mtime_ns, stat.st_ino

    def tls(self, known: Identities) -> ServerTls | None:
        """Certificates of the listener; None without TLS.

        Raises:
            BrokerError: one is missing.
        """
        return certificates.files_in(self.directory / TLS, known.client_certificates) if known.names else None

    def bridge(self, known: Identities) -> Bridge | None:
        """Connections to the central broker; None for that one itself.

        Raises:
            UsageError: a file of the folder cannot be read.
        """
        if not known.site:
            return None
        own = self.directory / CLIENT_CERTIFICATE
        certificate = own if known.client_certificates else None
        options = LinkOptions(
            broker=known.centre,
            username=known.site,
            password_file=self.directory / LOGIN,
            tls_ca=self.directory / TLS / certificates.CA if known.names else None,
            tls_cert=certificate,
            tls_key=certificate and self.directory / CLIENT_KEY,
            insecure=True,  # the centre's deployment decides that
        )
        return Bridge(
            link_settings(options, f"b-{known.site}"),
            shares=tuple(open_share(version, group) for version, group in known.share_groups.items()),
        )

    def create(
        self, settings: str, address: str, names: Sequence[str], *, client_certificates: bool, keys: bool
    ) -> None:
        """Make a deployment without clients.

        Args:
            settings: text of ``broker.toml``.
            address: host:port by which clients reach it.
            names: names in the server's certificate; empty is without TLS.
            client_certificates: clients need one.
            keys: sign who its clients are.
        """
        private_folder(self.directory)
        with alone(self.directory / _EDITING):
            if names:
                certificates.make_certificates(private_folder(self.directory / TLS), names)
            write_private(self.settings_file, settings)
            known = Identities(address, tuple(names), client_certificates, new_groups().key)
            self._write(self.keys.with_new_keys(known) if keys else known)

    def add(
        self,
        role: Role,
        names: Iterable[str],
        versions: tuple[str, ...],
        edges: tuple[str, ...] = (),
        *,
        site: str = "",
        address: str = "",
    ) -> set[str]:
        """Let clients in. A client that is there keeps its secrets; what it may serve or ask is changed.

        Args:
            role: role of all of them.
            names: their names, which are also those on topics.
            versions: versions that workers may serve; empty is any.
            edges: devices that askers may ask; empty is any.
            site: site to whose broker they connect; empty is the central one.
            address: host:port of a site's broker.

        Returns:
            The names that are new.
        """
        new: set[str] = set()

        def change(known: Identities) -> Identities:
            before = known.clients
            asked = Client(role, PasswordHash(""), versions, edges=edges, site=site, address=address)
            wanted = {name: self._wanted(known, name, asked) for name in names}
            new.update(wanted.keys() - before.keys())
            changed = wanted.keys() & before.keys()
            void = [serial for name in changed for serial in outgrown(before[name], wanted[name])]
            known = self.keys.restated(known.with_clients(wanted), void)
            update: dict[str, Client] = {}
            for name in wanted.keys() - new:
                client = wanted[name]
                if client != before[name] or (known.keys and role in KEY_ROLES and not client.credentials):
                    valid = tuple(serial for serial in client.credentials if serial not in void)
                    update[name] = replace(client, credentials=valid)
            fresh = {name: client for name, client in wanted.items() if name in new}
            return self.bundles.write(known, fresh, update)

        self.applied.wait_for(self._change(change))
        return new

    def revoke(self, names: Iterable[str]) -> bool:
        """Let clients in no more, end their connections and say so; tells whether a running broker has done so.

        Where the key that signs is not here, all else is done; the next change that has it says what is left to say.

        Raises:
            BrokerError: nothing was changed, for want of room.
        """
        names = tuple(dict.fromkeys(names))

        def change(known: Identities) -> Identities:
            gone, revoked, void = self._voided(known, names)
            clients = {name: client for name, client in known.clients.items() if name not in gone}
            changed = replace(known, clients=clients, revoked=revoked)
            try:
                changed = self.keys.restated(changed, void)
            except KeptElsewhere:
                changed = changed.with_unsigned(void)
            self._write_revoked(known, revoked)
            return changed

        before = self.load().clients
        try:
            revision = self._change(change)
        except OSError as error:
            raise BrokerError(
                f"{', '.join(names)} NOT revoked, and still gets in: {error}",
                hint=f"make room on the disk of {self.directory} and give the command again; until then "
                "end the broker that runs: that keeps everybody out",
            ) from error
        for name in names:
            self.bundles.remove(before[name].role, name)
        return self.applied.wait_for(revision)

    def rotate(self, names: Iterable[str]) -> dict[str, Path]:
        """Give clients new secrets; those that they have hold no more. Returns their bundles."""
        names = tuple(dict.fromkeys(names))

        def change(known: Identities) -> Identities:
            before, revoked, void = self._voided(known, names)
            known = self.keys.restated(known, void)
            bare = {name: replace(client, credentials=()) for name, client in before.items()}
            known = self.bundles.write(known, renew=bare)
            self._write_revoked(known, revoked)
            return replace(known, revoked=revoked)

        self.applied.wait_for(self._change(change))
        return self._folders(lambda name, _: name in names)

    def rotate_server(self) -> None:
        """Make a new key and certificate for the server; returns when a running broker shows it."""

        def change(known: Identities) -> Identities:
            if not known.names:
                raise UsageError(
                    "this broker has no TLS", hint="make another one: `flexspec-broker init DIR --tls`"
                )
            certificates.make_server_certificate(self.directory / TLS, known.names)
            return known

        self.applied.wait_for(self._change(change))

    def rotate_groups(self) -> dict[str, Path]:
        """New names for the groups of workers, and new opening keys; they take them up at their next start."""

        def change(known: Identities) -> Identities:
            known = replace(known, share_key=new_groups().key)
            workers = {name: c for name, c in known.clients.items() if c.role is Role.WORKER}
            return self.bundles.write(self.keys.with_new_opening(known), update=workers)

        before = self.load().keys
        self.applied.wait_for(self._change(change))
        if before is not None:
            self.keys.opening_path(before.read().opening[ANY]).unlink(missing_ok=True)
        return self._folders(lambda _, client: client.role is Role.WORKER)

    def rotate_keys(self) -> dict[str, Path]:
        """New keys of the deployment itself, also for one that has none: workers and devices need their new files."""

        def change(known: Identities) -> Identities:
            known = self.keys.with_new_keys(known)
            keyed = {name: c for name, c in known.clients.items() if c.role in KEY_ROLES}
            return self.bundles.write(known, update=keyed)

        before = self.load().keys
        self.applied.wait_for(self._change(change))
        if before is not None:
            self.keys.signing_path(before.deployment).unlink(missing_ok=True)
            self.keys.opening_path(before.read().opening[ANY]).unlink(missing_ok=True)
        return self._folders(lambda _, client: client.role in KEY_ROLES)

    def renew(self) -> bool:
        """Sign the statement anew, so that it holds for longer; tells whether a running broker shows it."""
        return self.applied.wait_for(self._change(self.keys.renewed))

    def _change(self, change: Callable[[Identities], Identities]) -> int:
        """Change the file, and return its new revision."""
        self.load()  # or there is no folder for the lock
        with alone(self.directory / _EDITING):
            known = self.load()
            if known.site:
                raise UsageError(
                    f"{self.directory} is the broker of site {known.site}, which cannot change who connects",
                    hint="give the command for the folder of the central broker, and copy identities.json from there",
                )
            changed = replace(change(known), revision=known.revision + 1)
            self._write(changed)
            self.bundles.update_sites(changed)
        return changed.revision

    def _wanted(self, known: Identities, name: str, asked: Client) -> Client:
        """A client as it is to be, which has its secrets already or none yet."""
        User(name, asked.role, PasswordHash(""), asked.versions, asked.edges)  # or the names are none
        if name in (OWN_NAME, CENTRE_NAME, ANYBODY):
            raise UsageError(f"{name} is the broker's own name", hint="give another")
        if asked.address:
            host_and_port(asked.address)
        if asked.site:
            _check_site(known, asked)
        client = known.clients.get(name, asked)
        if client.role is not asked.role:
            raise UsageError(
                f"{name} is there already, with the role {client.role.value}",
                hint="one name has one role: give another, or revoke it first",
            )
        return replace(
            client, versions=asked.versions, edges=asked.edges, site=asked.site, address=asked.address
        )

    def _voided(
        self, known: Identities, names: Iterable[str]
    ) -> tuple[dict[str, Client], tuple[str, ...], list[str]]:
        """Clients whose secrets end: the clients; serials of all revoked certificates; those of their credentials."""
        clients: dict[str, Client] = {}
        for name in names:
            if name not in known.clients:
                raise UsageError(
                    f"{name} is none of this broker's clients", hint="`flexspec-broker list DIR` names them"
                )
            clients[name] = known.clients[name]
        revoked = (*known.revoked, *(client.serial for client in clients.values() if client.serial))
        return clients, revoked, [serial for client in clients.values() for serial in client.credentials]

    def _folders(self, chosen: Callable[[str, Client], bool]) -> dict[str, Path]:
        clients = self.load().clients.items()
        return {
            name: self.bundles.folder(client.role, name) for name, client in clients if chosen(name, client)
        }

    def _write_revoked(self, known: Identities, revoked: Iterable[str]) -> None:
        if known.client_certificates:
            certificates.write_revoked(self.directory / TLS, [int(serial, 16) for serial in revoked])

    def _write(self, known: Identities) -> None:
        rewrite_private(self.directory / IDENTITIES, msgspec.json.format(msgspec.json.encode(known)).decode())


def _check_site(known: Identities, asked: Client) -> None:
    """Refuse a site that is none, or workers there whose versions are not told, as their opens come by version."""
    site = known.clients.get(asked.site)
    if site is None or site.role is not Role.SITE:
        raise UsageError(
            f"{asked.site} is no site of this deployment",
            hint=f"make it: `flexspec-broker add-site DIR {asked.site} --address HOST:PORT`",
        )
    if asked.role is Role.WORKER and not asked.versions:
        raise UsageError(
            "workers at a site serve versions that are named", hint="give --version, once for each"
        )
