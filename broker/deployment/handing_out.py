"""What each client needs of us, in a folder that it can be given as it is: settings, whom to trust, its secrets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.deployment.certificates import CA
from broker.files import private_folder, write_private
from broker.settings import Role
from flexspec_mq.share_groups import ShareGroups

LOGIN = "password"
CLIENT_CERTIFICATE, CLIENT_KEY = "client.crt", "client.key"
GROUPS = "share-groups"
IDENTITY = "keys.json"
SETTINGS = {Role.EDGE: "edge.toml", Role.WORKER: "cloud.toml", Role.PUBLISHER: "head.toml"}
"""What the file with the settings is called, by whose command reads it; operators have no daemon."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a client is given.

    Attributes:
        broker: host:port under which it reaches the broker.
        ca: certificate authority to trust; None without TLS.
        password: None leaves the one that is there.
        groups: of a worker.
        certificate: it has a client certificate in its folder.
        version: that it is to serve, or to ask for; empty leaves that to it.
        identity: text of its file of keys; None without.
    """

    name: str
    role: Role
    broker: str
    ca: Path | None
    password: str | None = field(repr=False)
    groups: ShareGroups | None = field(repr=False)
    certificate: bool
    version: str
    identity: str | None = field(default=None, repr=False)


def folder_of(directory: Path, role: Role, name: str) -> Path:
    """Where a client's files are laid out."""
    return directory / role.value / name


def hand_out(directory: Path, handed: Handed) -> Path:
    """Write the files of one client, and return their folder. Each is readable by its owner only.

    A file appears whole, and one that is right stays the same file: a process may hold a lock on it, as a sign that
    the user is taken.

    Args:
        directory: made if missing; has a folder for each role, so that one can be shared without the others.
        handed: what it gets.

    Raises:
        OSError: a file cannot be written.
    """
    for made in (directory, directory / handed.role.value, folder_of(directory, handed.role, handed.name)):
        folder = private_folder(made)
    texts: dict[str, str] = {}
    if handed.ca is not None:
        texts[CA] = handed.ca.read_text(encoding="utf-8")
    if handed.password is not None:
        texts[LOGIN] = handed.password + "\n"
    if handed.groups is not None:
        texts[GROUPS] = handed.groups.text()
    if handed.identity is not None:
        texts[IDENTITY] = handed.identity
    if handed.role in SETTINGS:
        texts[SETTINGS[handed.role]] = _toml(_settings(handed))
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_private(path, text)
    return folder


def take_back(directory: Path, role: Role, name: str) -> None:
    """Remove the files of one client, as far as they are still here."""
    shutil.rmtree(folder_of(directory, role, name), ignore_errors=True)


def _settings(handed: Handed) -> dict[str, str]:
    found = {"broker": handed.broker, "username": handed.name, "password_file": LOGIN}
    if handed.ca is not None:
        found["tls_ca"] = CA
    if handed.certificate:
        found |= {"tls_cert": CLIENT_CERTIFICATE, "tls_key": CLIENT_KEY}
    if handed.groups is not None:
        found["share_groups"] = GROUPS
    if handed.identity is not None:
        found["keys"] = IDENTITY
    if handed.version and handed.role is not Role.PUBLISHER:
        found["version"] = handed.version
    return found


def _toml(values: Mapping[str, str]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["# Written by flexspec-broker. All keys: docs/settings.md.", *lines, ""])
