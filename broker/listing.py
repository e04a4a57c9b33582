"""``flexspec-broker list``: who may connect, and what the deployment signs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from broker.deployment.folder import Deployment
from broker.deployment.identities import Identities
from broker.messages import say


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    deployment = Deployment(options.directory)
    known = deployment.load()
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "role": one.role.value,
            "versions": list(one.versions),
            "credentials": list(one.credentials),
        }
        for name, one in sorted(known.clients.items())
    ]
    keys = _keys(deployment, known)
    if options.json:
        say(json.dumps({"address": known.address, "clients": rows, "keys": keys}))
        return 0
    for row in rows:
        what = f"  {', '.join(row['versions']) or 'any version'}" if row["role"] == "worker" else ""
        who = f"  credential {', '.join(row['credentials'])}" if row["credentials"] else ""
        say(f"{row['role']:<10} {row['name']}{what}{who}")
    if keys is not None:
        where = "is here" if keys["signs_here"] else "is kept elsewhere"
        revoked = len(keys["revoked"])
        say(f"keys       of deployment {keys['deployment'][:8]}: the one that signs {where}")
        say(f"statement  {keys['statement']}, revokes {revoked} credential{'s' * (revoked != 1)}")
        if keys["unsigned"]:
            say(
                f"unsigned   {', '.join(keys['unsigned'])}, to be revoked: `flexspec-broker revoke DIR` with that key"
            )
    return 0


def _keys(deployment: Deployment, known: Identities) -> dict[str, Any] | None:
    if known.keys is None:
        return None
    said = known.keys.read()
    return {
        "deployment": known.keys.deployment.hex(),
        "statement": said.serial,
        "versions": sorted(said.opening),
        "revoked": sorted(one.hex() for one in said.revoked),
        "signs_here": deployment.keyring.path_of_signing(known.keys.deployment).exists(),
        "unsigned": sorted(known.keys.unsigned),
    }
