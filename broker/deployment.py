"""A broker's identities on disk: who may connect, as what, and what each was given.

``broker.toml`` has the settings of the listener, ``identities.json`` who may connect (of passwords only hashes),
``tls`` the certificates, ``hand-out`` what clients are to be given, ``run`` what Mosquitto reads and writes. Commands
change all but the last; `flexspec-broker run` sees that and has Mosquitto read its files again.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from broker import certificates
from broker.files import private_folder, read_text, write_private
from broker.handing_out import (
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    Handed,
    folder_of,
    hand_out,
    take_back,
)
from broker.identities import Identities, Identity
from broker.settings import PasswordHash, Role, ServerTls, User
from flexspec_mq.daemon.locks import alone
from flexspec_mq.errors import BrokerError, UsageError
from flexspec_mq.share_groups import new_groups

SETTINGS, IDENTITIES = "broker.toml", "identities.json"
RUN, TLS, HAND_OUT = "run", "tls", "hand-out"
_EDITING, _RUNNING, _APPLIED = "editing.lock", "running.lock", "applied"
_PATIENCE = 10.0
"""Seconds for a running broker to take up a change; it does so in one."""
_LOOKS = 0.5
"""Seconds for commands that look whether a broker runs, each for a moment, to get out of its way."""
_PASSWORD_BYTES = 24


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
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

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
        self, settings: str, address: str, names: Sequence[str], *, client_certificates: bool
    ) -> Identities:
        """Make a deployment without clients.

        Args:
            settings: text of ``broker.toml``.
            address: host:port by which clients reach it.
            names: for the server's certificate; empty is without TLS.
            client_certificates: clients need one.

        Raises:
            OSError: it cannot be written.
        """
        private_folder(self.directory)
        with alone(self.directory / _EDITING):
            if names:
                certificates.make_certificates(private_folder(self.directory / TLS), names)
            write_private(self.settings_file, settings)
            made = Identities(address, tuple(names), client_certificates, new_groups().key)
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
        """
        added = []

        def change(known: Identities) -> Identities:
            for name in names:
                one = known.clients.get(name)
                User(name, role, "-", versions)
                if one is not None and one.role is not role:
                    raise UsageError(
                        f"{name} is {one.role.with_article} already",
                        hint="one name has one role: give another, or revoke it first",
                    )
                if one is None:
                    wanted = self._equip(known, name, Identity(role, "", versions))
                else:
                    wanted = msgspec.structs.replace(one, versions=versions)
                    if wanted != one:
                        self._hand_out(known, name, wanted, None)
                folder = folder_of(self.directory / HAND_OUT, role, name)
                added.append(Added(name, folder, one is None))
                known = known.with_clients({name: wanted})
            return known

        self._await(self._change(change))
        return added

    def revoke(self, names: Iterable[str]) -> bool:
        """Let clients in no more, and end their connections; tells whether a running broker has done so.

        Raises:
            UsageError: one is not known.
        """
        names = tuple(names)

        def change(known: Identities) -> Identities:
            gone = [self._client(known, name) for name in names]
            revoked = (*known.revoked, *(one.serial for one in gone if one.serial))
            clients = {name: one for name, one in known.clients.items() if name not in names}
            self._write_revoked(known, revoked)
            return msgspec.structs.replace(known, clients=clients, revoked=revoked)

        before = self.load().clients
        revision = self._change(change)
        for name in names:
            take_back(self.directory / HAND_OUT, before[name].role, name)
        return self._await(revision)

    def rotate(self, names: Iterable[str]) -> list[Added]:
        """Give clients new secrets; those that they have hold no more.

        Raises:
            UsageError: one is not known.
        """
        changed = []

        def change(known: Identities) -> Identities:
            revoked = known.revoked
            clients = {}
            for name in dict.fromkeys(names):
                one = self._client(known, name)
                clients[name] = self._equip(known, name, one)
                revoked = (*revoked, one.serial) if one.serial else revoked
                changed.append(Added(name, folder_of(self.directory / HAND_OUT, one.role, name), new=True))
            self._write_revoked(known, revoked)
            return msgspec.structs.replace(known.with_clients(clients), revoked=revoked)

        self._await(self._change(change))
        return changed

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

        return self._await(self._change(change))

    def rotate_groups(self) -> list[Added]:
        """Draw new names for the groups of workers; they take them up at their next start."""
        changed = []

        def change(known: Identities) -> Identities:
            known = msgspec.structs.replace(known, share_key=new_groups().key)
            for name, one in known.clients.items():
                if one.role is Role.WORKER:
                    changed.append(Added(name, self._hand_out(known, name, one, None), new=False))
            return known

        self._await(self._change(change))
        return changed

    # A broker that runs

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the one that runs it.

        Raises:
            BrokerError: somebody else does.
        """
        private_folder(self.directory / RUN)
        with (self.directory / _RUNNING).open("ab") as file:
            end = time.monotonic() + _LOOKS
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    raise BrokerError(
                        f"a broker runs from {self.directory} already", hint="stop it: `flexspec-broker stop`"
                    )
                time.sleep(0.05)
            (self.directory / RUN / _APPLIED).unlink(missing_ok=True)
            yield

    def note_applied(self, known: Identities) -> None:
        """The running broker has taken up what `known` says."""
        write_private(self.directory / RUN / _APPLIED, f"{known.revision}\n")

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

    def _await(self, revision: int) -> bool:
        """Wait until a running broker has taken a revision up; False if none runs."""
        end = time.monotonic() + _PATIENCE
        while self._is_running():
            path = self.directory / RUN / _APPLIED
            if path.exists() and int(read_text(path)) >= revision:
                return True
            if time.monotonic() > end:
                raise BrokerError(
                    f"the broker that runs has not taken up the change within {_PATIENCE:g} s",
                    hint="restart it; look into its log",
                )
            time.sleep(0.05)
        return False

    def _is_running(self) -> bool:
        path = self.directory / _RUNNING
        if not path.exists():
            return False
        with path.open("ab") as file:
            return not _locked(file, fcntl.LOCK_SH)

    def _client(self, known: Identities, name: str) -> Identity:
        one = known.clients.get(name)
        if one is None:
            raise UsageError(
                f"{name} is none of this broker's clients", hint="`flexspec-broker list DIR` names them"
            )
        return one

    def _equip(self, known: Identities, name: str, one: Identity) -> Identity:
        """New secrets for a client, laid out for it."""
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        serial = ""
        folder = self._hand_out(known, name, one, password)
        if known.client_certificates:
            files = folder / CLIENT_CERTIFICATE, folder / CLIENT_KEY
            serial = f"{certificates.make_client_certificate(self.directory / TLS, name, *files):x}"
        return msgspec.structs.replace(one, password=PasswordHash.of(password).text, serial=serial)

    def _hand_out(self, known: Identities, name: str, one: Identity, password: str | None) -> Path:
        worker = one.role is Role.WORKER
        handed = Handed(
            name=name,
            role=one.role,
            broker=known.address,
            ca=self.directory / TLS / certificates.CA if known.names else None,
            password=password,
            groups=known.groups.only(one.versions) if worker else None,
            certificate=known.client_certificates,
            version=one.versions[0] if worker and one.versions else known.only_version,
        )
        return hand_out(self.directory / HAND_OUT, handed)

    def _write_revoked(self, known: Identities, revoked: Iterable[str]) -> None:
        if known.client_certificates:
            certificates.write_revoked(self.directory / TLS, [int(one, 16) for one in revoked])

    def _write(self, known: Identities) -> None:
        write_private(self.directory / IDENTITIES, msgspec.json.format(msgspec.json.encode(known)).decode())


def _locked(file: IO[bytes], how: int) -> bool:
    """Lock a file unless somebody else has; tells whether it is locked now."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
