"""The commands that make a deployment and let clients in and out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from broker import init, listing
from broker.deployment.folder import Added, Deployment
from broker.deployment.identities import PublicKeys
from broker.messages import say, tell_new_keys
from broker.settings import Role
from flexspec_mq.errors import UsageError

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
    init.add_arguments(
        _command(parts, "init", "make a deployment: certificates, keys, settings; nobody may connect yet")
    )

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
    command.add_argument(
        "names", nargs="*", metavar="NAME", help="none signs what could not be signed when it was revoked"
    )
    command.set_defaults(run=_revoke)

    command = _command(parts, "rotate", "new secrets for clients, the server or the groups of workers")
    command.add_argument("names", nargs="*", metavar="NAME", help="clients")
    command.add_argument("--server", action="store_true", help="a new certificate for the server")
    command.add_argument(
        "--groups", action="store_true", help="new names for the groups of workers, and new opening keys"
    )
    command.add_argument(
        "--keys",
        action="store_true",
        help="new keys of the deployment: all workers and devices need new files",
    )
    command.set_defaults(run=_rotate)

    listing.add_arguments(_command(parts, "list", "who may connect, and what the deployment signs"))


def _command(parts: Any, name: str, words: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = parts.add_parser(name, help=words, description=words)
    command.add_argument("directory", type=Path, metavar="DIR", help="of the deployment")
    return command


def _add(options: argparse.Namespace) -> int:
    versions = tuple(dict.fromkeys(getattr(options, "versions", ())))
    added = Deployment(options.directory).add(options.role, options.names, versions)
    for one in added:
        say(f"{one.name} {'was added' if one.new else 'is there already'}: {_told(one)}")
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
        say(f"move each folder{there}")


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
        say(f"{name} was revoked" + (", and is not connected any more" if applied else ""))
    if keys is not None:
        _tell_signed(deployment, keys)
    if not applied:
        say("no broker runs from this folder now: it is so from its next start on")
    if any(known.clients[name].role is Role.WORKER for name in options.names):
        say(
            f"who had those files knows the workers' groups: `flexspec-broker rotate {options.directory} --groups`"
        )
    return 0


def _tell_signed(deployment: Deployment, keys: PublicKeys) -> None:
    if not keys.unsigned:
        said = keys.read()
        say(f"statement {said.serial} says so to all who have keys")
        return
    path, number = deployment.keyring.path_of_signing(keys.deployment), len(keys.unsigned)
    say(f"NOT signed yet, as {path} is not here")
    say(
        f"this broker keeps them out; elsewhere {number} credential{'s' * (number != 1)} would still be believed"
    )
    say(f"bring it and run `flexspec-broker revoke {deployment.directory}`")


def _rotate(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    if not (options.names or options.server or options.groups or options.keys):
        raise UsageError("what is to be new?", hint="give names of clients, --server, --groups or --keys")
    for one in deployment.rotate(options.names) if options.names else ():
        say(f"{one.name} has new secrets, and the old ones hold no more: {one.folder}")
    if options.server:
        deployment.rotate_server()
        say("the server has a new key and certificate")
    if options.groups:
        keyed = deployment.load().keys is not None
        for one in deployment.rotate_groups():
            files = "share-groups and keys.json" if keyed else "share-groups"
            say(f"{one.name} needs its new {files}, and a restart: {one.folder}")
    if options.keys:
        tell_new_keys(deployment.rotate_keys())
    return 0
