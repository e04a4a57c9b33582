"""``flexspec head``: keys, and the versions of a target family. Importing it imports no model and no cryptography."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import Cancelled, UsageError
from flexspec_mq.evolution.base_head import add_base_parser
from flexspec_mq.evolution.check import add_base, add_check_parser
from flexspec_mq.evolution.cli_common import add_command, connected
from flexspec_mq.evolution.offline_signing import add_apart_parsers, add_out, publish_or_write
from flexspec_mq.evolution.settings import from_arguments
from flexspec_mq.evolution.trust import add_trust_parser
from flexspec_mq.settings.flags import positive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flexspec_mq.catalogue.signing import PrivateKey
    from flexspec_mq.evolution.catalogue_client import Board
    from schemas.catalogue import Catalogue

_DAY = 86_400
_LIFETIME_DAYS = 7.0
_RULE = (
    ("--least", int, "N", "answers of each version before anything is decided"),
    ("--promote-after", int, "N", "answers of a canary before it is promoted"),
    ("--confidence", float, "P", "confidence of each bound, one-sided"),
    ("--keep", float, "SHARE", "of the stable version's acceptance that a canary must keep"),
    ("--slower", float, "TIMES", "the stable version's seconds per token that a canary may take"),
    ("--more-errors", float, "SHARE", "of answers that may fail beyond the stable version's share"),
)


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
    keygen.add_argument(
        "file", type=Path, metavar="FILE", help="to write the private key to; none may be there"
    )
    keygen.set_defaults(func=_keygen)
    add_base_parser(actions)
    actions.add_parser("train", help="tune a head on chats (with flexspec-training)", add_help=False)
    add_check_parser(actions)
    add_trust_parser(actions)
    _add_publish(actions)
    listing = add_command(
        actions, "list", _list, "show versions, who holds them and how they are accepted", without=("key",)
    )
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.add_argument(
        "--wait", type=positive, default=1.0, metavar="S", help="seconds to listen to statuses (default: 1)"
    )
    for name, about in (
        ("promote", "make a canary, or a version that drains, the stable one"),
        ("rollback", "make a version the stable one again; the present one and all canaries drain"),
        ("retire", "give a version no new sessions at all"),
    ):
        move = add_command(actions, name, _move, about)
        move.add_argument("name", metavar="NAME", help="of the version")
        add_out(move)
    _add_renew(actions)
    add_apart_parsers(actions)
    _add_watch(actions)


def _add_publish(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    publish = add_command(
        actions,
        "publish",
        _publish,
        "check a head, copy it to where workers fetch it, and announce its version",
    )
    add = publish.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of the head, with its manifest")
    add("--name", required=True, metavar="NAME", help="of the version")
    add("--state", choices=("canary", "stable"), default="canary", help="what it becomes (default: canary)")
    add(
        "--share",
        type=int,
        default=10,
        metavar="P",
        help="percent of new sessions for a canary (default: 10)",
    )
    add(
        "--upload",
        metavar="URL",
        help="where this machine writes heads (default: where the catalogue says)",
    )
    add_base(publish)
    add("--first", action="store_true", help="begin the family's catalogue; the version is stable")
    add("--heads", metavar="URL", help="with --first: below which workers find heads")
    add_out(publish)
    _add_lifetime(publish, f"with --first: days until a catalogue expires (default: {_LIFETIME_DAYS:g})")


def _add_renew(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    renew = add_command(
        actions, "renew", _renew, "sign and publish the last catalogue anew, also where the broker lost it"
    )
    renew.add_argument("--heads", metavar="URL", help="another URL below which workers find heads")
    _add_lifetime(renew, "days until a catalogue expires (default: as before)")
    add_out(renew)


def _add_watch(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from flexspec_mq.evolution.analysis import DEFAULT_RULE

    watch = add_command(
        actions,
        "watch",
        _watch,
        "sign anew before the catalogue expires, and promote or abort canaries",
    )
    rule = watch.add_argument_group("what is asked of a canary")
    for flag, kind, metavar, about in _RULE:
        usual = getattr(DEFAULT_RULE, flag[2:].replace("-", "_"))
        rule.add_argument(
            flag,
            type=kind,
            default=usual,
            metavar=metavar,
            help=f"{about} (default: {usual:g})".replace("%", "%%"),
        )


def _add_lifetime(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--lifetime", type=positive, metavar="DAYS", help=about)


def _keygen(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue.signing import PrivateKey

    key = PrivateKey.generate()
    key.save(args.file)
    answer(key.public.hex())
    return 0


def _publish(args: argparse.Namespace) -> int:
    if args.first and (args.state != "stable" or not args.heads):
        raise UsageError("--first needs --state stable and --heads URL")
    if not args.first and (args.heads or args.lifetime):
        raise UsageError(
            "--heads and --lifetime go with --first", hint="later, `flexspec head renew` changes them"
        )
    if args.state == "canary" and not 1 <= args.share <= 100:
        raise UsageError(f"--share {args.share} is not between 1 and 100")
    from flexspec_mq import topics
    from flexspec_mq.evolution.check import base_path, check_head
    from flexspec_mq.heads.place import scheme_of

    # What is wrong here is said before anybody waits for a broker.
    topics.checked("version", args.name)
    if args.upload:
        scheme_of(args.upload)
    if args.heads:
        _for_workers(args.heads)
    signers = from_arguments(args).settings.head.signers()
    check_head(args.folder, base_path(args))
    return connected(args, lambda found: _announce(found, args, signers))


async def _announce(found: Board, args: argparse.Namespace, signers: Sequence[PrivateKey]) -> None:
    from flexspec_mq.catalogue import editing
    from flexspec_mq.evolution.bases import other_base
    from flexspec_mq.evolution.upload import upload
    from flexspec_mq.heads.place import from_catalogue
    from schemas.catalogue import VersionState

    if args.first and not found.absent():
        raise UsageError(
            "this family has a catalogue already", hint="leave out --first; see `flexspec head list`"
        )
    keys = found.keys()
    found.that_count(signers, others_sign=args.out is not None)
    base = b""
    if not args.first:
        base = await asyncio.to_thread(other_base, args.folder, found.catalogue(), args.upload)
    place = args.upload or args.heads or from_catalogue(found.catalogue().heads)
    digest, copied = await asyncio.to_thread(upload, args.folder, place)
    if args.first:
        lifetime = int((args.lifetime or _LIFETIME_DAYS) * _DAY)
        catalogue = editing.begin(
            keys.family,
            name=args.name,
            digest=digest,
            heads=args.heads,
            lifetime=lifetime,
            key_set=keys.serial,
            now=found.clock(),
        )
    else:
        state = VersionState[args.state.upper()]
        catalogue = editing.publish(
            found.catalogue(),
            found.clock(),
            name=args.name,
            digest=digest,
            state=state,
            share=args.share,
            base=base,
        )
    where = "copied" if copied else "which was there"
    said = f"published {args.name} as {args.state}: head {digest.hex()}, {where}; epoch {catalogue.epoch}"
    if args.base == "none":
        said += "; checked without its base, whose workers look at the rest"
    if args.first:
        said += _for_workers(args.heads)
    if base:
        said += f"; it has another base than {keys.family}: drafts of devices are independent models to it"
    await publish_or_write(found, catalogue, signers, args.out, said)


def _for_workers(heads: str) -> str:
    """What is to be said of a URL that a catalogue will name.

    Raises:
        UsageError: workers would not go there.
    """
    from flexspec_mq.heads.place import from_catalogue, scheme_of

    if scheme_of(heads) == "http":
        return "; by http only workers fetch heads that have this URL as their own --heads"
    from_catalogue(heads)
    return ""


def _move(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue import editing

    edits: dict[str, Callable[[Catalogue, float, str], Catalogue]] = {
        "promote": editing.promote,
        "rollback": editing.rollback,
        "retire": editing.retire,
    }
    signers = from_arguments(args).settings.head.signers()

    async def move(found: Board) -> None:
        catalogue = edits[args.action](found.catalogue(), found.clock(), args.name)
        states = ", ".join(f"{one.name} {one.state.name.lower()}" for one in catalogue.versions)
        await publish_or_write(found, catalogue, signers, args.out, f"{states}; epoch {catalogue.epoch}")

    return connected(args, move)


def _renew(args: argparse.Namespace) -> int:
    import msgspec

    from flexspec_mq.catalogue.editing import renewed

    signers = from_arguments(args).settings.head.signers()
    said = _for_workers(args.heads) if args.heads else ""

    async def renew(found: Board) -> None:
        await found.restore_keys()
        if (catalogue := found.follower.catalogue) is None:
            catalogue = found.catalogue()
        changes: dict[str, Any] = {}
        if args.heads:
            changes["heads"] = args.heads
        if args.lifetime:
            changes["lifetime"] = int(args.lifetime * _DAY)
        catalogue = renewed(msgspec.structs.replace(catalogue, **changes), found.clock())
        said_first = f"signed anew; epoch {catalogue.epoch}"
        await publish_or_write(found, catalogue, signers, args.out, said_first + said)

    return connected(args, renew)


def _list(args: argparse.Namespace) -> int:
    from flexspec_mq import topics
    from flexspec_mq.evolution.evidence import Evidence
    from flexspec_mq.evolution.overview import Statuses, report, table

    statuses = Statuses(Evidence(from_arguments(args).settings.head.named_family()))

    async def show(found: Board) -> None:
        catalogue = found.catalogue()
        await asyncio.sleep(args.wait)
        now = found.clock()
        listed = report(catalogue, found.keys(), statuses, now)
        if args.json:
            answer(json.dumps(listed))
        else:
            for line in table(listed, now):
                answer(line)

    return connected(
        args, show, (topics.worker_status_topic("+"), topics.edge_status_topic("+")), statuses.take
    )


def _watch(args: argparse.Namespace) -> int:
    from flexspec_mq import topics
    from flexspec_mq.evolution.analysis import Rule
    from flexspec_mq.evolution.evidence import Evidence
    from flexspec_mq.evolution.overview import Statuses
    from flexspec_mq.evolution.watch import Judge, Watcher

    config = from_arguments(args).settings
    rule = Rule(**{name: getattr(args, name) for name in (flag[2:].replace("-", "_") for flag, *_ in _RULE)})
    signers, statuses = config.head.signers(), Statuses(Evidence(config.head.named_family()))

    async def watch(found: Board) -> None:
        family = config.head.named_family()
        answer(f"watching {family}, {found.catalogue().lifetime} s from one catalogue to the next at most")
        await Watcher(found, signers, Judge(rule, statuses), answer).run()

    filters = topics.worker_status_topic("+"), topics.edge_status_topic("+")
    with contextlib.suppress(Cancelled):  # it goes on until somebody ends it
        connected(args, watch, filters, statuses.take)
    return 0
