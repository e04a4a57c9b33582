"""The commands that make a deployment and let clients in and out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from broker.deployment import Added, Deployment
from broker.settings import BrokerSettings, Role
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.hosts import is_loopback

_ROLES = {
    "add-device": (Role.EDGE, "let devices in"),
    "add-worker": (Role.WORKER, "let workers in, each for some versions or for any"),
    "add-publisher": (Role.PUBLISHER, "let those in who publish catalogues"),
    "add-operator": (Role.OPERATOR, "let those in who watch"),
}
_STARTS = {
    Role.EDGE: "flexspec-edge serve --config edge.toml",
    Role.WORKER: "flexspec-cloud --config cloud.toml",
    Role.PUBLISHER: "flexspec head … --config head.toml",
}


def add_commands(parts: Any) -> None:
    """Add all of them to the parser's subcommands."""
    command = _command(parts, "init", "make a deployment: certificates, settings, nobody who may connect yet")
    command.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="host name or address by which clients reach the broker; give all, the usual one first",
    )
    command.add_argument("--host", default="0.0.0.0", help="address to listen on (default: %(default)s)")  # noqa: S104
    command.add_argument("--port", type=int, default=8883, help="to listen on (default: %(default)s)")
    command.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="TLS 1.3 (default: unless --host is a loopback address)",
    )
    command.add_argument(
        "--client-certificates",
        action="store_true",
        help="clients need a certificate of this deployment beside their password",
    )
    command.set_defaults(run=_init)

    for name, (role, words) in _ROLES.items():
        command = _command(parts, name, words)
        command.add_argument("names", nargs="+", metavar="NAME", help="also the name on topics")
        if role is Role.WORKER:
            command.add_argument(
                "--version",
                action="append",
                default=[],
                metavar="VERSION",
                dest="versions",
                help="that they may serve; give it again for more (default: any, for workers of a family)",
            )
        command.set_defaults(run=_add, role=role)

    command = _command(parts, "revoke", "let clients in no more; a running broker ends their connections")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.set_defaults(run=_revoke)

    command = _command(parts, "rotate", "new secrets for clients, the server or the groups of workers")
    command.add_argument("names", nargs="*", metavar="NAME", help="clients")
    command.add_argument("--server", action="store_true", help="a new certificate for the server")
    command.add_argument("--groups", action="store_true", help="new names for the groups of workers")
    command.set_defaults(run=_rotate)

    command = _command(parts, "list", "who may connect")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_list)


def _command(parts: Any, name: str, words: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = parts.add_parser(name, help=words, description=words)
    command.add_argument("directory", type=Path, metavar="DIR", help="of the deployment")
    return command


def _init(options: argparse.Namespace) -> int:
    tls = not is_loopback(options.host) if options.tls is None else options.tls
    names = tuple(options.name) or ((options.host,) if is_loopback(options.host) else ())
    if not names:
        raise UsageError(
            "by which name do clients reach this broker?",
            hint="give --name HOST, which the certificate is for",
        )
    if not tls and not is_loopback(options.host):
        raise UsageError(
            f"other machines can reach a broker on {options.host}, so it needs TLS",
            hint="leave --no-tls out, or give --host 127.0.0.1",
        )
    if options.client_certificates and not tls:
        raise UsageError("--client-certificates needs TLS", hint="give --tls")
    if not 0 < options.port < 65_536:
        raise UsageError(f"port {options.port} is none", hint="give --port between 1 and 65535")
    wanted = f"{f'[{names[0]}]' if ':' in names[0] else names[0]}:{options.port}"
    deployment = Deployment(options.directory)
    if deployment.exists:
        known = deployment.load()
        same = (known.address, known.names, known.client_certificates)
        if same != (wanted, names if tls else (), options.client_certificates):
            raise UsageError(
                f"{options.directory} holds a broker already, which is another one",
                hint="give another folder, or the arguments with which it was made",
            )
        _say(f"{options.directory} is there already")
    else:
        settings = _SETTINGS.format(host=json.dumps(options.host), port=options.port, **_LIMITS)
        deployment.create(
            settings, wanted, names if tls else (), client_certificates=options.client_certificates
        )
        _say(f"made {options.directory}: a broker at {wanted}, {'TLS 1.3' if tls else 'without TLS'}")
    where = options.directory
    _say("next:")
    _say(f"  flexspec-broker add-worker {where} w1 --version base    # each worker needs a name of its own")
    _say(f"  flexspec-broker add-device {where} truck-17             # and so does each device")
    _say(f"  flexspec-broker run {where}")
    if tls:
        _say(f"keep {where / 'tls' / 'ca.key'} secret: it signs certificates that all clients trust")
    return 0


_LIMITS = {
    name: getattr(BrokerSettings(), name)
    for name in ("memory_mb", "connections", "max_queued", "max_queued_mb", "max_packet")
}
_SETTINGS = """\
# Settings of this broker, for `flexspec-broker run`. All keys: docs/settings.md.
host = {host}
port = {port}
persistence = true        # what is retained survives a restart
# Limits, as they are by default:
# memory_mb = {memory_mb}
# connections = {connections}
# max_queued = {max_queued}
# max_queued_mb = {max_queued_mb}
# max_packet = {max_packet}
"""


def _add(options: argparse.Namespace) -> int:
    versions = tuple(dict.fromkeys(getattr(options, "versions", ())))
    added = Deployment(options.directory).add(options.role, options.names, versions)
    for one in added:
        _say(f"{one.name} {'was added' if one.new else 'is there already'}: {_told(one)}")
    _tell_handing(options.role, (one for one in added if one.new))
    return 0


def _told(one: Added) -> str:
    return str(one.folder) if one.folder.exists() else "its files have been taken away"


def _tell_handing(role: Role, added: Iterable[Added]) -> None:
    if any(True for _ in added):
        start = _STARTS.get(role)
        there = (
            f" to its machine, and start it there: {start}" if start else ", who watches with an MQTT client"
        )
        _say(f"move each folder{there}")


def _revoke(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    known = deployment.load()
    applied = deployment.revoke(options.names)
    for name in options.names:
        _say(f"{name} was revoked" + (", and is not connected any more" if applied else ""))
    if not applied:
        _say("no broker runs from this folder now: it is so from its next start on")
    if any(known.clients[name].role is Role.WORKER for name in options.names):
        _say(
            f"who had those files knows the workers' groups: `flexspec-broker rotate {options.directory} --groups`"
        )
    return 0


def _rotate(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    if not (options.names or options.server or options.groups):
        raise UsageError("what is to be new?", hint="give names of clients, --server or --groups")
    for one in deployment.rotate(options.names) if options.names else ():
        _say(f"{one.name} has new secrets, and the old ones hold no more: {one.folder}")
    if options.server:
        deployment.rotate_server()
        _say("the server has a new key and certificate")
    if options.groups:
        for one in deployment.rotate_groups():
            _say(f"{one.name} needs a new {one.folder / 'share-groups'}, and a restart")
    return 0


def _list(options: argparse.Namespace) -> int:
    known = Deployment(options.directory).load()
    rows = [
        {"name": name, "role": one.role.value, "versions": list(one.versions)}
        for name, one in sorted(known.clients.items())
    ]
    if options.json:
        _say(json.dumps({"address": known.address, "clients": rows}))
        return 0
    for row in rows:
        what = f"  {', '.join(row['versions']) or 'any version'}" if row["role"] == "worker" else ""
        _say(f"{row['role']:<10} {row['name']}{what}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
