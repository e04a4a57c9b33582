"""Client bundles: what each client needs of us, in a folder that it can be given as it is."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from broker.deployment.certificates import CA, REVOKED, make_client_certificate, make_server_certificate
from broker.deployment.identities import Client, Identities
from broker.deployment.secret_keys import SecretKeys
from broker.files import private_folder, write_private
from broker.settings import Role, hashed
from flexspec_mq.settings.values import address as host_and_port
from flexspec_mq.settings.values import is_loopback

LOGIN = "password"
CLIENT_CERTIFICATE, CLIENT_KEY = "client.crt", "client.key"
GROUPS = "share-groups"
IDENTITY = "keys.json"
SETTINGS = {Role.EDGE: "edge.toml", Role.WORKER: "cloud.toml", Role.PUBLISHER: "head.toml"}
"""Name of the file with the settings, by whose command reads it; operators have no daemon."""
IDENTITIES, TLS, BROKER_SETTINGS = "identities.json", "tls", "broker.toml"
"""Files and folder of a broker's own folder, which a site's bundle is."""
LISTENER = """\
# Settings of this broker, for `flexspec-broker run`. All keys, limits among them: docs/settings.md.
host = {host}
port = {port}
persistence = true        # what is retained survives a restart
"""
_PASSWORD_BYTES = 24


class ClientBundles:
    """The bundles of a deployment's clients, in a folder for each role, so that one can be shared without the others.

    Methods that write raise `KeptElsewhere` or `OSError`. All files are readable by their owner only. A file appears
    whole, and one that is right stays the same file: a process may hold a lock on it, as a sign that the user is taken.
    """

    def __init__(self, directory: Path, tls: Path, keys: SecretKeys) -> None:
        self._directory = directory
        self._tls = tls
        self._keys = keys

    def folder(self, role: Role, name: str) -> Path:
        """Path of a client's bundle."""
        return self._directory / role.value / name

    def remove(self, role: Role, name: str) -> None:
        """Remove a client's bundle, as far as it is still here."""
        shutil.rmtree(self.folder(role, name), ignore_errors=True)

    def write(
        self, known: Identities, renew: Mapping[str, Client] = {}, update: Mapping[str, Client] = {}
    ) -> Identities:
        """Write bundles, and return who may connect with them; all are on the disk then.

        Args:
            known: identities, with all versions.
            renew: clients that get new secrets.
            update: clients that keep their password; with keys they get a new credential beside those that hold.
        """
        clients = {name: self._renewed(known, name, client) for name, client in renew.items()}
        clients |= {name: self._write(known, name, client, None) for name, client in update.items()}
        os.sync()  # once for all: with a wait for each file, 10,000 devices take minutes
        return known.with_clients(clients)

    def _renewed(self, known: Identities, name: str, client: Client) -> Client:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        client = self._write(known, name, client, password)
        serial = ""
        if known.client_certificates:
            folder = self.folder(client.role, name)
            files = folder / CLIENT_CERTIFICATE, folder / CLIENT_KEY
            serial = f"{make_client_certificate(self._tls, name, *files):x}"
        if client.role is Role.SITE and known.names:
            names = host_and_port(client.address)[:1]
            make_server_certificate(self._tls, names, self.folder(client.role, name) / TLS)
        return msgspec.structs.replace(client, password=hashed(password), serial=serial)

    def update_sites(self, known: Identities) -> None:
        """Write into the bundles of sites who connects to their brokers."""
        for name, client in known.clients.items():
            folder = self.folder(client.role, name)
            if client.role is not Role.SITE or not folder.exists():
                continue
            here = msgspec.json.format(msgspec.json.encode(known.at_site(name))).decode()
            texts = {IDENTITIES: here}
            if known.names:
                texts |= {f"{TLS}/{name}": (self._tls / name).read_text("utf-8") for name in (CA, REVOKED)}
            self._lay_out(folder, texts)

    def _write(self, known: Identities, name: str, client: Client, password: str | None) -> Client:
        worker = client.role is Role.WORKER
        settings = {"broker": known.address_for(client), "username": name, "password_file": LOGIN}
        texts: dict[str, str] = {}
        if password is not None:
            texts[LOGIN] = password + "\n"
        if known.names and client.role is not Role.SITE:
            texts[CA] = (self._tls / CA).read_text(encoding="utf-8")
            settings["tls_ca"] = CA
        if known.client_certificates:
            settings |= {"tls_cert": CLIENT_CERTIFICATE, "tls_key": CLIENT_KEY}
        if worker:
            texts[GROUPS] = known.groups.only(client.versions).text()
            settings["share_groups"] = GROUPS
        if identity := self._keys.issued(known, name, client):
            texts[IDENTITY] = identity.text()
            settings["keys"] = IDENTITY
            serials = (*client.credentials, identity.credential.serial.hex())
            client = msgspec.structs.replace(client, credentials=serials)
        version = client.versions[0] if worker and client.versions else known.only_version
        if version and client.role in (Role.EDGE, Role.WORKER):
            settings["version"] = version
        if client.role is Role.SITE:
            host, port = host_and_port(client.address)
            listen = host if is_loopback(host) else "0.0.0.0"  # noqa: S104
            texts[BROKER_SETTINGS] = LISTENER.format(host=json.dumps(listen), port=port)
        elif client.role in SETTINGS:
            lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
            header = "# Written by flexspec-broker. All keys: docs/settings.md."
            texts[SETTINGS[client.role]] = "\n".join([header, *lines, ""])
        self._lay_out(self.folder(client.role, name), texts)
        return client

    def _lay_out(self, folder: Path, texts: dict[str, str]) -> None:
        for parent in (self._directory, folder.parent, folder):
            private_folder(parent)
        for name, text in texts.items():
            path = folder / name
            private_folder(path.parent)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_private(path, text, durable=False)
