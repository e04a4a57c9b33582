"""``flexspec head``: keys, and the versions of a target family. Importing it imports no model and no cryptography."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import Cancelled
from flexspec_mq.evolution.base_head import add_base_parser
from flexspec_mq.evolution.check import add_check_parser
from flexspec_mq.evolution.cli_common import DAY, add_command, add_lifetime, add_out, connected
from flexspec_mq.evolution.offline_signing import add_offline_signing_parsers, publish_or_write
from flexspec_mq.evolution.publish import add_publish_parser, check_heads_url
from flexspec_mq.evolution.settings import from_arguments
from flexspec_mq.evolution.trust import add_trust_parser
from flexspec_mq.settings.flags import positive

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.evolution.catalogue_client import CatalogueClient
    from schemas.catalogue import Catalogue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``head`` to the subcommands of ``flexspec``."""
    head = commands.add_parser(
        "head",
        help="make, sign and publish versions of a target family",
        description="A version is the base model plus a head. A family's catalogue says which versions there are "
        "and which of them take new sessions; one signed, retained message tells workers and edges.",
    )
    actions = head.add_subparsers(dest="action", metavar="action", required=True)
    keygen = actions.add_parser("keygen", help="make a key, and print its public half")
    about = "to write the private key to; none may be there"
    keygen.add_argument("file", type=Path, metavar="FILE", help=about)
    keygen.set_defaults(func=_keygen)
    add_base_parser(actions)
    actions.add_parser("train", help="tune a head on chats (with flexspec-training)", add_help=False)
    add_check_parser(actions)
    add_trust_parser(actions)
    add_publish_parser(actions)
    about = "show versions, who holds them and how they are accepted"
    listing = add_command(actions, "list", _list, about, without=("key",))
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    about = "seconds to listen to statuses (default: 1)"
    listing.add_argument("--wait", type=positive, default=1.0, metavar="S", help=about)
    for name, about in (
        ("promote", "make a canary, or a version that drains, the stable one"),
        ("rollback", "make a version the stable one again; the present one and all canaries drain"),
        ("retire", "give a version no new sessions at all"),
    ):
        move = add_command(actions, name, _move, about)
        move.add_argument("name", metavar="NAME", help="of the version")
        add_out(move)
    _add_renew(actions)
    add_offline_signing_parsers(actions)
    _add_watch(actions)


def _add_renew(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "sign and publish the last catalogue anew, also where the broker lost it"
    renew = add_command(actions, "renew", _renew, about)
    renew.add_argument("--heads", metavar="URL", help="another URL below which workers find heads")
    add_lifetime(renew, "days until a catalogue expires (default: as before)")
    add_out(renew)


def _add_watch(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from flexspec_mq.evolution.analysis import CONFIDENCE, DEFAULT_RULE, LEAST, MORE_ERRORS, PROMOTE_AFTER

    about = "sign anew before the catalogue expires, and promote or abort canaries"
    watch = add_command(actions, "watch", _watch, about)
    rule = watch.add_argument_group(
        "what is asked of a canary",
        f"Nothing is decided before {LEAST} answers of each version; a canary is promoted after "
        f"{PROMOTE_AFTER}. Each bound is kept with {CONFIDENCE:.0%} confidence, and at most "
        f"{MORE_ERRORS:.0%} more of a canary's answers may fail.",
    )
    for flag, usual, metavar, about in (
        ("--keep", DEFAULT_RULE.keep, "SHARE", "of the stable version's acceptance that a canary must keep"),
        (
            "--slower",
            DEFAULT_RULE.slower,
            "TIMES",
            "the stable version's seconds per token that a canary may take",
        ),
    ):
        words = f"{about} (default: {usual:g})"
        rule.add_argument(flag, type=float, default=usual, metavar=metavar, help=words)


def _keygen(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue.signing import PrivateKey

    key = PrivateKey.generate()
    key.save(args.file)
    answer(key.public.hex())
    return 0


def _move(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue import editing

    edits: dict[str, Callable[[Catalogue, float, str], Catalogue]] = {
        "promote": editing.promote,
        "rollback": editing.rollback,
        "retire": editing.retire,
    }
    signers = from_arguments(args).settings.head.signers()

    async def move(client: CatalogueClient) -> None:
        catalogue = edits[args.action](client.catalogue(), client.clock(), args.name)
        states = ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)
        await publish_or_write(client, catalogue, signers, args.out, f"{states}; epoch {catalogue.epoch}")

    return connected(args, move)


def _renew(args: argparse.Namespace) -> int:
    import msgspec

    from flexspec_mq.catalogue.editing import renewed

    signers = from_arguments(args).settings.head.signers()
    warning = check_heads_url(args.heads) if args.heads else ""

    async def renew(client: CatalogueClient) -> None:
        await client.restore_keys()
        catalogue = client.follower.catalogue or client.catalogue()
        changes: dict[str, Any] = {}
        if args.heads:
            changes["heads"] = args.heads
        if args.lifetime:
            changes["lifetime"] = int(args.lifetime * DAY)
        catalogue = renewed(msgspec.structs.replace(catalogue, **changes), client.clock())
        said = f"signed anew; epoch {catalogue.epoch}{warning}"
        await publish_or_write(client, catalogue, signers, args.out, said)

    return connected(args, renew)


def _list(args: argparse.Namespace) -> int:
    from flexspec_mq.evolution.evidence import Evidence
    from flexspec_mq.evolution.overview import FILTERS, Statuses, report, table

    statuses = Statuses(Evidence(from_arguments(args).settings.head.named_family()))

    async def show(client: CatalogueClient) -> None:
        catalogue = client.catalogue()
        await asyncio.sleep(args.wait)
        now = client.clock()
        listed = report(catalogue, client.keys(), statuses, now)
        answer(json.dumps(listed) if args.json else "\n".join(table(listed, now)))

    return connected(args, show, FILTERS, statuses.take)


def _watch(args: argparse.Namespace) -> int:
    from flexspec_mq.evolution.analysis import CanaryRule
    from flexspec_mq.evolution.evidence import Evidence
    from flexspec_mq.evolution.overview import FILTERS, Statuses
    from flexspec_mq.evolution.watch import Judge, Watcher

    head = from_arguments(args).settings.head
    rule = CanaryRule(keep=args.keep, slower=args.slower)
    family, signers = head.named_family(), head.signers()
    statuses = Statuses(Evidence(family))

    async def watch(client: CatalogueClient) -> None:
        lifetime = client.catalogue().lifetime
        answer(f"watching {family}, {lifetime} s from one catalogue to the next at most")
        await Watcher(client, signers, Judge(rule, statuses), answer).run()

    with contextlib.suppress(Cancelled):  # it goes on until somebody ends it
        connected(args, watch, FILTERS, statuses.take)
    return 0
