"""``flexspec head trust``: the root key says which keys sign catalogues."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flexspec_mq.catalogue.refusals import SignedRefused
from flexspec_mq.catalogue.signing import PrivateKey, open_signed, read_public, seal
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.changes import read_signed, write_signed
from flexspec_mq.evolution.settings import head_options
from schemas.catalogue import FORMAT, KeySet

if TYPE_CHECKING:
    import argparse


def trust(args: argparse.Namespace) -> int:
    """``flexspec head trust``: returns the exit code."""
    if args.send is not None:
        return _send_file(args)
    if args.root is None or not args.signer:
        raise UsageError(
            "a key set needs --root and at least one --signer", hint="`flexspec head keygen` makes keys"
        )
    head = head_options(args)
    family, root = head.named_family(), PrivateKey.load(args.root)
    if head.root_key is not None and head.root() != root.public:
        raise UsageError(
            f"{args.root} is another key than --root-key", hint="give the one that belongs to it"
        )
    if args.out is not None:
        if args.serial is None:
            hint = "the first key set has 1, each later one a higher one"
            raise UsageError("--out needs --serial", hint=hint)
        write_signed(args.out, _key_set(args, family, root, args.serial))
        how = "publish it with `flexspec head trust --send`"
        answer(f"wrote {args.out}: key set {args.serial} of {family}; {how}")
        return 0

    async def sign_and_send(client: CatalogueClient) -> None:
        serial = args.serial
        if serial is None:
            try:
                serial = client.keys().serial + 1
            except UsageError as error:
                raise UsageError(error.message, hint="give --serial; the first key set has 1") from error
        await _send(client, _key_set(args, family, root, serial))

    return connected(args, sign_and_send, root=root.public)


def _send_file(args: argparse.Namespace) -> int:
    if args.root is not None or args.signer or args.out is not None:
        raise UsageError(
            "--send publishes what is signed already", hint="leave out --root, --signer and --out"
        )
    head = head_options(args)
    payload = read_signed(args.send)
    try:
        open_signed(payload, KeySet, head.named_family(), [head.root()])
    except SignedRefused as error:
        hint = error.hint or "sign it with the root key of --root-key"
        raise UsageError(error.message, hint=hint) from error
    return connected(args, lambda client: _send(client, payload))


def _key_set(args: argparse.Namespace, family: str, root: PrivateKey, serial: int) -> bytes:
    """The payload of the key set that the flags say."""
    keys = tuple(read_public(signer) for signer in args.signer)
    reset = int(time.time()) if args.reset else 0
    return seal(KeySet(FORMAT, family, serial, args.threshold, keys, reset), [root])


async def _send(client: CatalogueClient, payload: bytes) -> None:
    await client.trust(payload)
    keys, catalogue = client.keys(), client.follower.catalogue
    signers = f"{keys.threshold} of {len(keys.keys)} keys sign"
    answer(f"published key set {keys.serial} of {keys.family}: {signers}")
    if catalogue is not None and catalogue.key_set != keys.serial:
        answer("the catalogue is still signed under the one before: now `flexspec head renew`")
