"""What clients of a deployment are given: made for each, and laid out in its folder."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker.deployment import certificates
from broker.deployment.credentials import issued
from broker.deployment.handing_out import (
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    Handed,
    folder_of,
    hand_out,
    take_back,
)
from broker.deployment.identities import Identities, Identity
from broker.deployment.keyring import Keyring
from broker.settings import PasswordHash, Role

_PASSWORD_BYTES = 24


class Equipment:
    """Lays out clients' files.

    Args:
        directory: to lay them out in.
        tls: folder of the certificates.
        keyring: of the deployment.
    """

    def __init__(self, directory: Path, tls: Path, keyring: Keyring) -> None:
        self._directory = directory
        self._tls = tls
        self._keyring = keyring

    def folder(self, role: Role, name: str) -> Path:
        """Where the files of a client are."""
        return folder_of(self._directory, role, name)

    def take_back(self, role: Role, name: str) -> None:
        """Remove the files of a client, as far as they are still here."""
        take_back(self._directory, role, name)

    def all_new(self, known: Identities, name: str, one: Identity) -> Identities:
        """Lay out new secrets for a client; returns who may connect with them.

        Raises:
            BrokerError: a key that is needed is kept elsewhere.
            OSError: a file cannot be written.
        """
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        one = self._lay_out(known, name, one, password)
        serial = ""
        if known.client_certificates:
            folder = self.folder(one.role, name)
            files = folder / CLIENT_CERTIFICATE, folder / CLIENT_KEY
            serial = f"{certificates.make_client_certificate(self._tls, name, *files):x}"
        one = msgspec.structs.replace(one, password=PasswordHash.of(password).text, serial=serial)
        return known.with_clients({name: one})

    def same_login(self, known: Identities, name: str, one: Identity) -> Identities:
        """Lay out all else for a client: with keys a new credential beside those that hold.

        Raises:
            BrokerError: a key that is needed is kept elsewhere.
            OSError: a file cannot be written.
        """
        return known.with_clients({name: self._lay_out(known, name, one, None)})

    def of_roles(self, known: Identities, roles: Sequence[Role]) -> Identities:
        """`same_login` for all clients of some roles."""
        for name, one in known.clients.items():
            if one.role in roles:
                known = self.same_login(known, name, one)
        return known

    def _lay_out(self, known: Identities, name: str, one: Identity, password: str | None) -> Identity:
        worker = one.role is Role.WORKER
        identity = issued(known, self._keyring, name, one)
        handed = Handed(
            name=name,
            role=one.role,
            broker=known.address,
            ca=self._tls / certificates.CA if known.names else None,
            password=password,
            groups=known.groups.only(one.versions) if worker else None,
            certificate=known.client_certificates,
            version=one.versions[0] if worker and one.versions else known.only_version,
            identity=None if identity is None else identity.text(),
        )
        hand_out(self._directory, handed)
        if identity is None:
            return one
        return msgspec.structs.replace(one, credentials=(*one.credentials, identity.credential.serial.hex()))
