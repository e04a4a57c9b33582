"""Mosquitto's configuration as text, and the directory that holds all its files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from broker.access import access_file
from broker.programs import program
from broker.settings import BrokerSettings
from flexspec_mq.errors import BrokerError

CONFIG = "mosquitto.conf"
ACCESS = "access"
PASSWORDS = "passwords"
DATA = "data"


def config_text(settings: BrokerSettings, directory: Path) -> str:
    """Text of ``mosquitto.conf`` for files in `directory`.

    It sets no ``max_keepalive``: Mosquitto 2.0.21 drops clients, however busy, whose keepalive equals it, and
    lowers longer ones to it.
    """
    lines = [
        "# Written by flexspec-broker.",
        "per_listener_settings false",
        f"listener {settings.port} {settings.host}",
        f"set_tcp_nodelay {_flag(settings.nodelay)}",
        f"max_inflight_messages {settings.max_inflight}",
        f"max_queued_messages {settings.max_queued}",
        f"max_packet_size {settings.max_packet}",
        f"persistent_client_expiration {settings.session_expiry}",
        "max_topic_alias 0",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        f"allow_anonymous {_flag(not settings.users)}",
    ]
    if settings.users:
        lines += [f"password_file {directory / PASSWORDS}", f"acl_file {directory / ACCESS}"]
    if settings.tls is not None:
        lines += [
            f"cafile {settings.tls.ca}",
            f"certfile {settings.tls.certificate}",
            f"keyfile {settings.tls.key}",
            f"require_certificate {_flag(settings.tls.require_client_certificates)}",
            "tls_version tlsv1.2",
        ]
    if settings.persistence:
        lines += ["persistence true", f"persistence_location {directory / DATA}/", "autosave_interval 5"]
    else:
        lines.append("persistence false")
    if settings.run_as is not None:
        lines.append(f"user {settings.run_as}")
    return "\n".join(lines) + "\n"


def render(settings: BrokerSettings, directory: Path) -> Path:
    """Write configuration, access rules and password hashes into `directory` and return the configuration.

    Raises:
        UsageError: the settings would let strangers in.
        BrokerError: ``mosquitto_passwd`` is missing or failed.
    """
    settings.check()
    directory = directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.persistence:
        (directory / DATA).mkdir(mode=0o700, exist_ok=True)
    if settings.users:
        write_private(directory / ACCESS, access_file(settings.users))
        _write_passwords(settings, directory / PASSWORDS)
    config = directory / CONFIG
    write_private(config, config_text(settings, directory))
    return config


def _write_passwords(settings: BrokerSettings, path: Path) -> None:
    """Write the users' passwords and have them hashed in place, so that no command line shows them."""
    for user in settings.users:
        if not user.password or "\n" in user.password:
            raise BrokerError(f"user {user.name} has an empty password, or one with a line break")
    write_private(path, "".join(f"{user.name}:{user.password}\n" for user in settings.users))
    done = subprocess.run(
        [program("mosquitto_passwd"), "-U", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        path.unlink()
        raise BrokerError(f"mosquitto_passwd failed: {(done.stderr or done.stdout).strip()}")
    path.chmod(0o600)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _flag(value: bool) -> str:
    return "true" if value else "false"
