"""A broker's identities on disk: who may connect, as what, and what each was given.

``broker.toml`` has the settings of the listener, ``identities.json`` who may connect (of passwords only hashes) and
the signed statement, ``tls`` the certificates, ``keys`` what signs, ``hand-out`` what clients are to be given,
``run`` what Mosquitto reads and writes. Commands change all but the last; `flexspec-broker run` sees that, has
Mosquitto read its files again and publishes the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.announcing import OWN_NAME
from broker.deployment import certificates
from broker.deployment.credentials import (
    KEY_ROLES,
    outgrown,
    restated,
    to_be_restated,
    with_new_keys,
    with_new_opening,
)
from broker.deployment.equipping import Equipment
from broker.deployment.identities import Identities, Identity
from broker.deployment.in_force import InForce
from broker.deployment.keyring import KeptElsewhere, Keyring
from broker.files import private_folder, read_text, rewrite_private, write_private
from broker.settings import Role, ServerTls, User
from flexspec_mq.daemon.locks import alone
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.share_groups import new_groups
from schemas.statement import ANY

SETTINGS, IDENTITIES = "broker.toml", "identities.json"
TLS, KEYS, HAND_OUT = "tls", "keys", "hand-out"
_EDITING = "editing.lock"


@dataclass(frozen=True, slots=True)
class Added:
    """A client that was added.

    Attributes:
        folder: what it is to be given.
        new: False if it was there already.
    """

    name: str
    folder: Path
    new: bool


class Deployment:
    """The folder of one broker.

    Args:
        directory: made by `init`.

    Attributes:
        keyring: its own secrets, which may be kept elsewhere.
        in_force: what a broker that runs has taken up.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.keyring = Keyring(self.directory / KEYS)
        self.in_force = InForce(self.directory)
        self._equipment = Equipment(self.directory / HAND_OUT, self.directory / TLS, self.keyring)

    # What is there

    @property
    def settings_file(self) -> Path:
        """Settings of the listener."""
        return self.directory / SETTINGS

    @property
    def exists(self) -> bool:
        """Whether `init` was there."""
        return (self.directory / IDENTITIES).exists()

    def load(self) -> Identities:
        """Who may connect.

        Raises:
            BrokerError: there is no deployment, or its file is none.
        """
        path = self.directory / IDENTITIES
        if not path.exists():
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
        """Another one after each change, cheap to ask for."""
        found = (self.directory / IDENTITIES).stat()
        return found.st_mtime_ns, found.st_ino

    def tls(self, known: Identities) -> ServerTls | None:
        """Certificates of the listener; None without TLS.

        Raises:
            BrokerError: one is missing.
        """
        if not known.names:
            return None
        folder = self.directory / TLS
        found = certificates.files_in(folder)
        if found is None:
            raise BrokerError(f"a file is missing in {folder}", hint="copy it back from a backup")
        return ServerTls(
            found.ca,
            found.certificate,
            found.key,
            require_client_certificates=known.client_certificates,
            revoked=(folder / certificates.REVOKED).resolve() if known.client_certificates else None,
        )

    # Changes

    def create(
        self, settings: str, address: str, names: Sequence[str], *, client_certificates: bool, keys: bool
    ) -> Identities:
        """Make a deployment without clients.

        Args:
            settings: text of ``broker.toml``.
            address: host:port by which clients reach it.
            names: for the server's certificate; empty is without TLS.
            client_certificates: clients need one.
            keys: sign who its clients are.

        Raises:
            OSError: it cannot be written.
        """
        private_folder(self.directory)
        with alone(self.directory / _EDITING):
            if names:
                certificates.make_certificates(private_folder(self.directory / TLS), names)
            write_private(self.settings_file, settings)
            made = Identities(address, tuple(names), client_certificates, new_groups().key)
            if keys:
                made = with_new_keys(made, self.keyring)
            self._write(made)
        return made

    def add(self, role: Role, names: Iterable[str], versions: tuple[str, ...]) -> list[Added]:
        """Let clients in. One that is there keeps its secrets; of a worker the versions are changed.

        Args:
            role: of all.
            names: which are also those on topics.
            versions: that workers may serve; empty is any.

        Raises:
            UsageError: a name cannot be one, or has another role.
            BrokerError: a key that is needed is kept elsewhere.
        """
        names = tuple(dict.fromkeys(names))
        new: set[str] = set()

        def change(known: Identities) -> Identities:
            before = known.clients
            wanted = {name: self._wanted(known, role, name, versions) for name in names}
            new.update(wanted.keys() - before.keys())
            revoked = [
                serial
                for name in wanted.keys() & before.keys()
                for serial in outgrown(before[name], wanted[name])
            ]
            known = restated(known.with_clients(wanted), self.keyring, revoked)
            for name, one in wanted.items():
                if name in new:
                    known = self._equipment.all_new(known, name, one)
                elif one != before[name] or (known.keys and role in KEY_ROLES and not one.credentials):
                    kept = tuple(serial for serial in one.credentials if serial not in revoked)
                    known = self._equipment.same_login(
                        known, name, msgspec.structs.replace(one, credentials=kept)
                    )
            return known

        self.in_force.wait_for(self._change(change))
        return [Added(name, self._equipment.folder(role, name), name in new) for name in names]

    def revoke(self, names: Iterable[str]) -> bool:
        """Let clients in no more, end their connections and say so; tells whether a running broker has done so.

        Where the key that signs is not here, all else is done; the next change that has it says what is left to say.

        Raises:
            UsageError: one is not known.
            BrokerError: nothing was changed, for want of room.
        """
        names = tuple(dict.fromkeys(names))

        def change(known: Identities) -> Identities:
            gone = [self._client(known, name) for name in names]
            revoked = (*known.revoked, *(one.serial for one in gone if one.serial))
            clients = {name: one for name, one in known.clients.items() if name not in names}
            changed = msgspec.structs.replace(known, clients=clients, revoked=revoked)
            void = [serial for one in gone for serial in one.credentials]
            try:
                changed = restated(changed, self.keyring, void)
            except KeptElsewhere:
                changed = to_be_restated(changed, void)
            self._write_revoked(known, revoked)
            return changed

        before = self.load().clients
        try:
            revision = self._change(change)
        except OSError as error:
            raise BrokerError(
                f"{', '.join(names)} NOT revoked, and still gets in: {error}",
                hint=f"make room on the disk of {self.directory} and give the command again; until then "
                "`flexspec-broker stop` keeps everybody out",
            ) from error
        for name in names:
            self._equipment.take_back(before[name].role, name)
        return self.in_force.wait_for(revision)

    def rotate(self, names: Iterable[str]) -> list[Added]:
        """Give clients new secrets; those that they have hold no more.

        Raises:
            UsageError: one is not known.
            BrokerError: the key that signs is kept elsewhere.
        """
        names = tuple(dict.fromkeys(names))

        def change(known: Identities) -> Identities:
            before = {name: self._client(known, name) for name in names}
            revoked = (*known.revoked, *(one.serial for one in before.values() if one.serial))
            void = [serial for one in before.values() for serial in one.credentials]
            known = restated(known, self.keyring, void)
            for name, one in before.items():
                known = self._equipment.all_new(known, name, msgspec.structs.replace(one, credentials=()))
            self._write_revoked(known, revoked)
            return msgspec.structs.replace(known, revoked=revoked)

        self.in_force.wait_for(self._change(change))
        return self._laid_out(lambda name, _: name in names)

    def rotate_server(self) -> bool:
        """Make a new key and certificate for the server; tells whether a running broker shows it.

        Raises:
            UsageError: it has no TLS.
        """

        def change(known: Identities) -> Identities:
            if not known.names:
                raise UsageError(
                    "this broker has no TLS", hint="make another one: `flexspec-broker init DIR --tls`"
                )
            certificates.make_server_certificate(self.directory / TLS, known.names)
            return known

        return self.in_force.wait_for(self._change(change))

    def rotate_groups(self) -> list[Added]:
        """New names for the groups of workers, and new opening keys; they take them up at their next start.

        Raises:
            BrokerError: the key that signs is kept elsewhere.
        """

        def change(known: Identities) -> Identities:
            known = msgspec.structs.replace(known, share_key=new_groups().key)
            return self._equipment.of_roles(with_new_opening(known, self.keyring), (Role.WORKER,))

        before = self.load().keys
        self.in_force.wait_for(self._change(change))
        if before is not None:
            self.keyring.drop_opening(before.read().opening[ANY])
        return self._laid_out(lambda _, one: one.role is Role.WORKER)

    def rotate_keys(self) -> list[Added]:
        """New keys of the deployment itself, also for one that has none: workers and devices need their new files."""

        def change(known: Identities) -> Identities:
            return self._equipment.of_roles(with_new_keys(known, self.keyring), tuple(KEY_ROLES))

        before = self.load().keys
        self.in_force.wait_for(self._change(change))
        if before is not None:
            self.keyring.drop_signing(before.deployment)
            self.keyring.drop_opening(before.read().opening[ANY])
        return self._laid_out(lambda _, one: one.role in KEY_ROLES)

    # Parts

    def _change(self, change: Callable[[Identities], Identities]) -> int:
        """Change the file, and return its new revision."""
        self.load()  # or there is no folder for the lock
        with alone(self.directory / _EDITING):
            known = self.load()
            changed = change(known)
            changed = msgspec.structs.replace(changed, revision=known.revision + 1)
            self._write(changed)
        return changed.revision

    def _wanted(self, known: Identities, role: Role, name: str, versions: tuple[str, ...]) -> Identity:
        """A client as it is to be, which has its secrets already or none yet."""
        User(name, role, "-", versions)
        if name == OWN_NAME:
            raise UsageError(f"{name} is the broker's own name", hint="give another")
        one = known.clients.get(name)
        if one is not None and one.role is not role:
            raise UsageError(
                f"{name} is {one.role.with_article} already",
                hint="one name has one role: give another, or revoke it first",
            )
        if one is None:
            return Identity(role, "", versions)
        return msgspec.structs.replace(one, versions=versions)

    def _client(self, known: Identities, name: str) -> Identity:
        one = known.clients.get(name)
        if one is None:
            raise UsageError(
                f"{name} is none of this broker's clients", hint="`flexspec-broker list DIR` names them"
            )
        return one

    def _laid_out(self, which: Callable[[str, Identity], bool]) -> list[Added]:
        return [
            Added(name, self._equipment.folder(one.role, name), new=False)
            for name, one in self.load().clients.items()
            if which(name, one)
        ]

    def _write_revoked(self, known: Identities, revoked: Iterable[str]) -> None:
        if known.client_certificates:
            certificates.write_revoked(self.directory / TLS, [int(one, 16) for one in revoked])

    def _write(self, known: Identities) -> None:
        rewrite_private(self.directory / IDENTITIES, msgspec.json.format(msgspec.json.encode(known)).decode())
