"""Mosquitto's configuration as text, and the directory that holds all its files."""

import getpass
import os
from collections.abc import Iterable
from pathlib import Path

from broker.access import AccessRules
from broker.files import private_folder, rewrite_private, write_private
from broker.settings import CENTRE_NAME, Bridge, BrokerSettings, User
from flexspec_mq import topics, waiting

CONFIG = "mosquitto.conf"
ACCESS = "access"
PASSWORDS = "passwords"
DATA = "data"
DATABASE = Path(DATA, "mosquitto.db")
"""Everything that Mosquitto keeps on the disk, below the directory of its files."""


def config_text(settings: BrokerSettings, directory: Path) -> str:
    """Text of ``mosquitto.conf`` for files in `directory`.

    It sets no ``max_keepalive``: Mosquitto 2.0.21 drops clients, however busy, whose keepalive equals it, and
    lowers longer ones to it.
    """
    lines = [
        "# Written by flexspec-broker.",
        "per_listener_settings false",
        f"listener {settings.port} {settings.host}",
        "set_tcp_nodelay true",
        f"max_inflight_messages {settings.max_inflight}",
        "max_queued_messages 10000",
        f"max_queued_bytes {settings.max_queued_mb * 1_000_000}",
        f"max_packet_size {settings.max_packet}",
        f"memory_limit {settings.memory_mb * 1_000_000}",
        f"max_connections {settings.connections}",
        f"persistent_client_expiration {settings.session_expiry}",
        "max_topic_alias 0",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        f"allow_anonymous {_flag(settings.users is None)}",
    ]
    if settings.users is not None:
        # What is refused, and what is subscribed to, Mosquitto tells at these levels only (`broker.watching`).
        lines += ["log_type debug", "log_type subscribe", "log_type information"]
        lines += [f"password_file {directory / PASSWORDS}", f"acl_file {directory / ACCESS}"]
    if settings.tls is not None:
        lines += [
            f"cafile {settings.tls.ca}",
            f"certfile {settings.tls.certificate}",
            f"keyfile {settings.tls.key}",
            f"require_certificate {_flag(settings.tls.revoked is not None)}",
            "tls_version tlsv1.3",
        ]
        if settings.tls.revoked is not None:
            lines.append(f"crlfile {settings.tls.revoked}")
    if settings.own_socket is not None:  # after all that belongs to the other listener
        lines.append(f"listener 0 {settings.own_socket}")
    if settings.persistence:
        lines += ["persistence true", f"persistence_location {directory / DATA}/", "autosave_interval 5"]
    else:
        lines.append("persistence false")
    if settings.bridge is not None:
        lines += _bridge_lines(settings.bridge)
    if os.geteuid() == 0:  # or Mosquitto would change to its own user, who may not read its files
        lines.append(f"user {getpass.getuser()}")
    return "\n".join(lines) + "\n"


def _bridge_lines(bridge: Bridge) -> list[str]:
    """Bridge connections.

    The first speaks MQTT 5, as MQTT 3.1.1 has no message expiry. It subscribes with "no local", which shared
    subscriptions forbid; so opens come by a second one of MQTT 3.1.1 that does not say that it is a bridge. At the
    central broker both leave nothing behind, which would get opens while the site is away; here, what is to go out
    waits.
    """
    to = bridge.to
    reach = [
        f"address {to.host}:{to.port}",
        f"local_username {CENTRE_NAME}",
        f"remote_username {to.username}",
        f"remote_password {to.password}",
        "notifications false",
        "bridge_attempt_unsubscribe false",
        f"keepalive_interval {waiting.KEEPALIVE // 3}",
        f"restart_timeout {waiting.RETRY_AWAITED:g}",
    ]
    if to.tls is not None:
        files = to.tls.ca, to.tls.certificate, to.tls.key
        names = "bridge_cafile", "bridge_certfile", "bridge_keyfile"
        reach += [f"{name} {file}" for name, file in zip(names, files, strict=True) if file is not None]
    # Where there are workers, devices talk with those: an open that went out as well would be taken twice.
    # Statuses go one way, or an old one that is retained on this side would come back as the newest on that.
    inward, outward = ("dhki", "vrwte") if bridge.shares else ("vrwthki", "ode")
    lines = [
        "connection centre",
        *reach,
        f"remote_clientid {to.client_id}",
        "bridge_protocol_version mqttv50",
        "cleansession true",
        "local_cleansession false",
        *(f"topic {topics.ROOT}/{letter}/# in 1" for letter in inward),
        *(f"topic {topics.ROOT}/{letter}/# out 1" for letter in outward),
    ]
    if bridge.shares:
        lines += [
            "connection opens",
            *reach,
            f"remote_clientid {to.client_id}-opens",
            "bridge_protocol_version mqttv311",
            "try_private false",
            "cleansession true",
            *(f"topic {topic} in 1" for topic in bridge.shares),
        ]
    return lines


def render(settings: BrokerSettings, directory: Path) -> Path:
    """Write configuration, access rules and password hashes into `directory` and return the configuration.

    Raises:
        UsageError: the settings would let strangers in.
        BrokerError: two users share a name.
    """
    settings.check()
    directory = private_folder(directory.resolve())
    if settings.persistence:
        private_folder(directory / DATA)
    if settings.users is not None:
        render_users(settings.users, directory)
    config = directory / CONFIG
    write_private(config, config_text(settings, directory))
    return config


def render_users(users: Iterable[User], directory: Path) -> None:
    """Write what Mosquitto reads of users: passwords and access rules. It reads both again on SIGHUP."""
    users = tuple(users)
    rewrite_private(directory / ACCESS, AccessRules(users).file())
    rewrite_private(directory / PASSWORDS, "".join(f"{user.name}:{user.password}\n" for user in users))


def _flag(value: bool) -> str:
    return "true" if value else "false"
