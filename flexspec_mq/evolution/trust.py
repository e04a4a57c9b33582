"""``flexspec head trust``: the root key says which keys sign catalogues."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.cli_common import add_command, connected
from flexspec_mq.evolution.settings import from_arguments

if TYPE_CHECKING:
    import argparse

    from flexspec_mq.catalogue.signing import PrivateKey
    from flexspec_mq.evolution.catalogue_client import Board

_MAX_KEY_SET = 1 << 16


def add_trust_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``trust``."""
    trust = add_command(
        actions, "trust", _trust, "sign with the root key which keys sign catalogues", without=("key",)
    )
    add = trust.add_argument
    add(
        "--root",
        type=Path,
        metavar="FILE",
        help="private root key, which can stay on a machine without a network",
    )
    add(
        "--signer", action="append", default=[], metavar="KEY", help="public key that may sign; once for each"
    )
    add("--threshold", type=int, default=1, metavar="N", help="keys that must sign a catalogue (default: 1)")
    add("--serial", type=int, metavar="N", help="of this key set (default: one above the present one's)")
    add("--reset", action="store_true", help="forget catalogues that were issued later than now")
    add("--out", type=Path, metavar="FILE", help="write the signed key set instead of publishing it")
    add("--send", type=Path, metavar="FILE", help="publish what --out has written")


def _trust(args: argparse.Namespace) -> int:
    if args.send is not None:
        return _send_file(args)
    from flexspec_mq.catalogue.signing import PrivateKey

    if args.root is None or not args.signer:
        raise UsageError(
            "a key set needs --root and at least one --signer", hint="`flexspec head keygen` makes keys"
        )
    head = from_arguments(args).settings.head
    root = PrivateKey.load(args.root)
    if head.root_key is not None and head.root() != root.public:
        raise UsageError(
            f"{args.root} is another key than --root-key", hint="give the one that belongs to it"
        )
    if args.out is not None:
        return _write_file(args, head.named_family(), root)

    async def sign_and_send(found: Board) -> None:
        serial = args.serial
        if serial is None:
            try:
                serial = found.keys().serial + 1
            except UsageError as error:
                raise UsageError(error.message, hint="give --serial; the first key set has 1") from error
        await _send(found, _key_set(args, head.named_family(), root, serial))

    return connected(args, sign_and_send, root=root.public)


def _send_file(args: argparse.Namespace) -> int:
    from flexspec_mq.evolution.catalogue_client import check_keys

    if args.root is not None or args.signer or args.out is not None:
        raise UsageError(
            "--send publishes what is signed already", hint="leave out --root, --signer and --out"
        )
    head = from_arguments(args).settings.head
    payload = _read(args.send)
    check_keys(payload, head.named_family(), head.root())
    return connected(args, lambda found: _send(found, payload))


def _write_file(args: argparse.Namespace, family: str, root: PrivateKey) -> int:
    if args.serial is None:
        raise UsageError("--out needs --serial", hint="the first key set has 1, each later one a higher one")
    if args.out.exists():
        raise UsageError(f"{args.out} is there already", hint="give another file")
    payload = _key_set(args, family, root, args.serial)
    try:
        with whole(args.out) as part:
            part.write_bytes(payload)
    except OSError as error:
        raise UsageError(f"{args.out} cannot be written: {error}", hint="give another file") from error
    answer(
        f"wrote {args.out}: key set {args.serial} of {family}; publish it with `flexspec head trust --send`"
    )
    return 0


def _key_set(args: argparse.Namespace, family: str, root: PrivateKey, serial: int) -> bytes:
    """The payload of the key set that the flags say."""
    from flexspec_mq.catalogue.signing import read_public, seal
    from schemas.catalogue import FORMAT, KeySet

    keys = tuple(read_public(one) for one in args.signer)
    reset = int(time.time()) if args.reset else 0
    return seal(KeySet(FORMAT, family, serial, args.threshold, keys, reset), [root])


async def _send(found: Board, payload: bytes) -> None:
    await found.trust(payload)
    keys, catalogue = found.keys(), found.follower.catalogue
    answer(
        f"published key set {keys.serial} of {keys.family}: {keys.threshold} of {len(keys.keys)} keys sign"
    )
    if catalogue is not None and catalogue.key_set != keys.serial:
        answer("the catalogue is still signed under the one before: now `flexspec head renew`")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_SET)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give what --out has written") from error
