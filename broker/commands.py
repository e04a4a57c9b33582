"""The commands that make a deployment and let clients in and out."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from broker.deployment.bundles import IDENTITIES, LISTENER
from broker.deployment.folder import KEYS, Deployment
from broker.deployment.identities import Identities, PublicKeys
from broker.settings import Role
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.dated import Dated, day
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.values import is_loopback

_ROLES = {
    "add-device": (Role.EDGE, "let devices in"),
    "add-worker": (Role.WORKER, "let workers in, each for some versions or for any"),
    "add-publisher": (Role.PUBLISHER, "let those in who publish catalogues"),
    "add-operator": (Role.OPERATOR, "let those in who watch"),
    "add-asker": (Role.ASKER, "let those in who ask devices for texts by MQTT"),
    "add-site": (Role.SITE, "make a broker for a site, which carries for its clients as a bridge"),
}
_STARTS = " to its machine, and start it there: "
_USES = {
    Role.EDGE: f"{_STARTS}flexspec-edge serve --config edge.toml",
    Role.WORKER: f"{_STARTS}flexspec-cloud --config cloud.toml",
    Role.PUBLISHER: f"{_STARTS}flexspec head … --config head.toml",
    Role.OPERATOR: ", who watches with an MQTT client",
    Role.SITE: f"{_STARTS}flexspec-broker run FOLDER",
    Role.ASKER: ", whose MQTT client publishes to f1/ask/DEVICE/NAME and reads f1/answer/NAME/#",
}


def add_commands(subparsers: Any) -> None:
    """Add all of them to the parser's subcommands."""
    words = "make a deployment: certificates, keys, settings; nobody may connect yet"
    _add_init_arguments(_command(subparsers, "init", words))

    for name, (role, words) in _ROLES.items():
        command = _command(subparsers, name, words)
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
        if role is Role.ASKER:
            command.add_argument(
                "--edge",
                action="append",
                default=[],
                metavar="DEVICE",
                dest="edges",
                help="that they may ask; give it again for more (default: any)",
            )
        if role in (Role.EDGE, Role.WORKER):
            command.add_argument("--site", default="", help="site to whose broker they connect")
        if role is Role.SITE:
            about = "by which its clients reach its broker"
            command.add_argument("--address", required=True, metavar="HOST:PORT", help=about)
        command.set_defaults(run=_add, role=role)

    command = _command(
        subparsers, "revoke", "let clients in no more; a running broker ends their connections"
    )
    about = "none signs what could not be signed when it was revoked"
    command.add_argument("names", nargs="*", metavar="NAME", help=about)
    command.set_defaults(run=_revoke)

    command = _command(subparsers, "rotate", "new secrets for clients, the server or the groups of workers")
    command.add_argument("names", nargs="*", metavar="NAME", help="clients")
    for flag, about in (
        ("--server", "a new certificate for the server"),
        ("--groups", "new names for the groups of workers, and new opening keys"),
        ("--keys", "new keys of the deployment: all workers and devices need new files"),
    ):
        command.add_argument(flag, action="store_true", help=about)
    command.set_defaults(run=_rotate)

    words = "sign the deployment's statement anew: it holds for half a year, and commands that sign renew it as well"
    command = _command(subparsers, "renew", words)
    command.set_defaults(run=_renew)

    command = _command(subparsers, "list", "who may connect, and what the deployment signs")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_list)


def _command(subparsers: Any, name: str, words: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = subparsers.add_parser(name, help=words, description=words)
    command.add_argument("directory", type=Path, metavar="DIR", help="of the deployment")
    return command


def _add_init_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="host name or address by which clients reach the broker; give all, the usual one first",
    )
    command.add_argument("--host", default="0.0.0.0", help="address to listen on (default: %(default)s)")  # noqa: S104
    command.add_argument("--port", type=int, default=8883, help="to listen on (default: %(default)s)")
    command.add_argument("--tls", action="store_true", help="TLS 1.3 on a loopback address too")
    command.add_argument(
        "--client-certificates",
        action="store_true",
        help="clients need a certificate of this deployment beside their password, and TLS",
    )
    command.add_argument(
        "--keys",
        action="store_true",
        help="keys, by which devices and workers know each other whoever runs the broker, on a loopback address too",
    )
    command.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    beyond = not is_loopback(options.host)
    tls = beyond or options.tls or options.client_certificates
    names = tuple(options.name) or (() if beyond else (options.host,))
    if not names:
        raise UsageError(
            "by which name do clients reach this broker?",
            hint="give --name HOST, which the certificate is for",
        )
    if not 0 < options.port < 65_536:
        raise UsageError(f"port {options.port} is none", hint="give --port between 1 and 65535")
    address = f"{f'[{names[0]}]' if ':' in names[0] else names[0]}:{options.port}"
    certified = names if tls else ()
    deployment = Deployment(options.directory)
    if deployment.exists:
        known = deployment.load()
        keys = known.keys is not None
        wanted = address, certified, options.client_certificates
        present = known.address, known.names, known.client_certificates
        if wanted != present or (options.keys and not keys):
            raise UsageError(
                f"{options.directory} holds a broker already, which is another one",
                hint="give another folder, or the arguments with which it was made; "
                "`flexspec-broker rotate DIR --keys` makes keys for one without",
            )
        answer(f"{options.directory} is there already")
    else:
        keys = beyond or options.keys
        settings = LISTENER.format(host=json.dumps(options.host), port=options.port)
        deployment.create(
            settings, address, certified, client_certificates=options.client_certificates, keys=keys
        )
        what = f"{'TLS 1.3' if tls else 'without TLS'}, {'with keys' if keys else 'without keys'}"
        answer(f"made {options.directory}: a broker at {address}, {what}")
    _tell_next(options.directory, tls=tls, keys=keys)
    return 0


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


def _add(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    names = dict.fromkeys(options.names)
    versions, edges = (tuple(dict.fromkeys(getattr(options, of, ()))) for of in ("versions", "edges"))
    site, address = (getattr(options, of, "") for of in ("site", "address"))
    new = deployment.add(options.role, names, versions, edges, site=site, address=address)
    for name in names:
        folder = deployment.bundles.folder(options.role, name)
        where = folder if folder.exists() else "its files have been taken away"
        answer(f"{name} {'was added' if name in new else 'is there already'}: {where}")
    if new:
        answer(f"move each folder{_USES[options.role]}")
    if site:
        here = deployment.bundles.folder(Role.SITE, site)
        answer(f"copy {here / IDENTITIES} to the folder of that site's broker, which takes it up")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    known = deployment.load()
    if not options.names and (known.keys is None or not known.keys.unsigned):
        raise UsageError(
            "who is to be let in no more?", hint="give names; `flexspec-broker list DIR` has them"
        )
    applied = deployment.revoke(options.names)
    keys = deployment.load().keys
    for name in options.names:
        answer(f"{name} was revoked" + (", and is not connected any more" if applied else ""))
    if keys is not None:
        _tell_signed(deployment, keys)
    if not applied:
        answer("no broker runs from this folder now: it is so from its next start on")
    if any(known.clients[name].role is Role.WORKER for name in options.names):
        rotate = f"`flexspec-broker rotate {options.directory} --groups`"
        answer(f"who had those files knows the workers' groups: {rotate}")
    return 0


def _tell_signed(deployment: Deployment, keys: PublicKeys) -> None:
    if not keys.unsigned:
        answer(f"statement {keys.read().serial} says so to all who have keys")
        return
    path, number = deployment.keys.signing_path(keys.deployment), len(keys.unsigned)
    answer(f"NOT signed yet, as {path} is not here")
    credentials = f"{number} credential{'s' * (number != 1)}"
    answer(f"this broker keeps them out; elsewhere {credentials} would still be believed")
    answer(f"bring it and run `flexspec-broker revoke {deployment.directory}`")


def _rotate(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    if not (options.names or options.server or options.groups or options.keys):
        raise UsageError("what is to be new?", hint="give names of clients, --server, --groups or --keys")
    if options.names:
        for name, folder in deployment.rotate(options.names).items():
            answer(f"{name} has new secrets, and the old ones hold no more: {folder}")
    if options.server:
        deployment.rotate_server()
        answer("the server has a new key and certificate")
    if options.groups:
        files = "share-groups" if deployment.load().keys is None else "share-groups and keys.json"
        for name, folder in deployment.rotate_groups().items():
            answer(f"{name} needs its new {files}, and a restart: {folder}")
    if options.keys:
        answer("the deployment has new keys")
        for name, folder in deployment.rotate_keys().items():
            answer(f"{name} needs its new files, and a restart: {folder}")
    return 0


def _renew(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    shown = deployment.renew()
    keys = deployment.load().keys
    assert keys is not None  # noqa: S101  or it was no use
    statement = keys.read()
    where = "and the broker shows it" if shown else "and no broker runs from this folder now"
    answer(f"statement {statement.serial} holds until {day(statement.expires)}, {where}")
    return 0


def tell_expiry(directory: Path) -> None:
    """Tell people on standard error that the statement expires soon, or has expired."""
    keys = Deployment(directory).load().keys
    if keys is None:
        return
    advice = f"`flexspec-broker renew {directory}` with the key that signs"
    if words := Dated("the statement", keys.read().expires, advice).warning(time.time()):
        logs.tell(f"{words}: {advice}")


def _list(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    known = deployment.load()
    keys = _keys(deployment, known)
    if options.json:
        rows = [
            {
                "name": name,
                "role": client.role.value,
                "versions": list(client.versions),
                "credentials": list(client.credentials),
                "edges": list(client.edges),
                "site": client.site,
            }
            for name, client in sorted(known.clients.items())
        ]
        answer(json.dumps({"address": known.address, "clients": rows, "keys": keys}))
        return 0
    for name, client in sorted(known.clients.items()):
        versions = f"  {', '.join(client.versions) or 'any version'}" if client.role is Role.WORKER else ""
        if client.role is Role.ASKER:
            versions = f"  asks {', '.join(client.edges) or 'any device'}"
        credentials = f"  credential {', '.join(client.credentials)}" if client.credentials else ""
        site = f"  at {client.site or client.address}" if client.site or client.address else ""
        answer(f"{client.role.value:<10} {name}{site}{versions}{credentials}")
    if keys is not None:
        where = "is here" if keys["signs_here"] else "is kept elsewhere"
        revoked = len(keys["revoked"])
        answer(f"keys       of deployment {keys['deployment'][:8]}: the one that signs {where}")
        gone = f"revokes {revoked} credential{'s' * (revoked != 1)}"
        answer(f"statement  {keys['statement']}, holds until {day(keys['expires'])}, {gone}")
        if unsigned := ", ".join(keys["unsigned"]):
            answer(f"unsigned   {unsigned}, to be revoked: `flexspec-broker revoke DIR` with that key")
    return 0


def _keys(deployment: Deployment, known: Identities) -> dict[str, Any] | None:
    if known.keys is None:
        return None
    statement = known.keys.read()
    return {
        "deployment": known.keys.deployment.hex(),
        "statement": statement.serial,
        "expires": statement.expires,
        "versions": sorted(statement.opening),
        "revoked": sorted(serial.hex() for serial in statement.revoked),
        "signs_here": deployment.keys.signing_path(known.keys.deployment).exists(),
        "unsigned": sorted(known.keys.unsigned),
    }
