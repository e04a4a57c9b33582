"""``flexspec-broker init``: make a deployment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from broker.deployment.folder import KEYS, Deployment
from broker.settings import BrokerSettings
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.values import is_loopback


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
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
    command.add_argument(
        "--keys",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keys by which devices and workers know each other, whoever runs the broker (default: unless --host is "
        "a loopback address); a broker without keys is given some",
    )
    command.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    beyond = not is_loopback(options.host)
    tls = beyond if options.tls is None else options.tls
    keys = beyond if options.keys is None else options.keys
    names = tuple(options.name) or (() if beyond else (options.host,))
    _check(options, names, tls=tls)
    address = f"{f'[{names[0]}]' if ':' in names[0] else names[0]}:{options.port}"
    certified = names if tls else ()
    deployment = Deployment(options.directory)
    if deployment.exists:
        _again(options, deployment, address, certified, keys=keys)
    else:
        settings = _SETTINGS.format(host=json.dumps(options.host), port=options.port, **_LIMITS)
        deployment.create(
            settings, address, certified, client_certificates=options.client_certificates, keys=keys
        )
        what = f"{'TLS 1.3' if tls else 'without TLS'}, {'with keys' if keys else 'without keys'}"
        answer(f"made {options.directory}: a broker at {address}, {what}")
    _tell_next(options.directory, tls=tls, keys=deployment.load().keys is not None)
    return 0


def tell_new_keys(bundles: Mapping[str, Path]) -> None:
    """Say that the deployment has new keys, and so which clients need their new files."""
    answer("the deployment has new keys")
    for name, folder in bundles.items():
        answer(f"{name} needs its new files, and a restart: {folder}")


def _check(options: argparse.Namespace, names: tuple[str, ...], *, tls: bool) -> None:
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


def _again(
    options: argparse.Namespace, deployment: Deployment, address: str, names: tuple[str, ...], *, keys: bool
) -> None:
    known = deployment.load()
    wanted = address, names, options.client_certificates
    if (known.address, known.names, known.client_certificates) != wanted:
        raise UsageError(
            f"{options.directory} holds a broker already, which is another one",
            hint="give another folder, or the arguments with which it was made",
        )
    if known.keys is not None and options.keys is False:
        raise UsageError(
            f"{options.directory} has keys, which cannot be taken away",
            hint="give another folder, or leave --no-keys out",
        )
    answer(f"{options.directory} is there already")
    if known.keys is None and options.keys:
        tell_new_keys(deployment.rotate_keys())
    elif known.keys is None and keys:
        answer("it has no keys: the same with --keys makes some, and then all clients need new files")


def _tell_next(where: Path, *, tls: bool, keys: bool) -> None:
    answer("next:")
    answer(f"  flexspec-broker add-worker {where} w1 --version base    # each worker needs a name of its own")
    answer(f"  flexspec-broker add-device {where} truck-17             # and so does each device")
    answer(f"  flexspec-broker run {where}")
    if tls:
        answer(f"keep {where / 'tls' / 'ca.key'} secret: it signs certificates that all clients trust")
    if keys:
        answer(
            f"keep {where / KEYS} secret, best elsewhere: it signs who all clients are, and only commands need it"
        )


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
