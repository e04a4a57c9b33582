"""Changes of a catalogue and of its key set: published, or written to a file that others sign and somebody sends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.refusals import SignedRefused
from flexspec_mq.catalogue.signing import PrivateKey, open_signed, read_public, seal
from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.settings import head_options
from flexspec_mq.heads.place import from_catalogue, scheme_of
from schemas.catalogue import FORMAT, Catalogue, KeySet

if TYPE_CHECKING:
    import argparse

DAY = 86_400
_EDITS = {"promote": editing.promote, "rollback": editing.rollback, "retire": editing.retire}
_MOST = 1 << 16
"""Bytes that are read of a file."""


def keygen(args: argparse.Namespace) -> int:
    """``flexspec head keygen``: returns the exit code."""
    key = PrivateKey.generate()
    key.save(args.file)
    answer(key.public.hex())
    return 0


def move(args: argparse.Namespace) -> int:
    """``flexspec head promote``, ``rollback`` and ``retire``: returns the exit code."""
    signers = head_options(args).signers()

    async def edit(client: CatalogueClient) -> None:
        catalogue = _EDITS[args.action](client.catalogue(), client.clock(), args.name)
        words = f"{_states(catalogue)}; epoch {catalogue.epoch}"
        await client.publish(catalogue, signers)
        answer(words)

    return connected(args, edit)


def renew(args: argparse.Namespace) -> int:
    """``flexspec head renew``: returns the exit code."""
    signers = head_options(args).signers()
    warning = check_heads_url(args.heads) if args.heads else ""
    changes: dict[str, Any] = {}
    if args.heads:
        changes["heads"] = args.heads
    if args.lifetime:
        changes["lifetime"] = int(args.lifetime * DAY)

    async def sign_anew(client: CatalogueClient) -> None:
        await client.restore_keys()
        catalogue = client.follower.catalogue or client.catalogue()
        catalogue = editing.renewed(msgspec.structs.replace(catalogue, **changes), client.clock())
        words = f"signed anew; epoch {catalogue.epoch}{warning}"
        await client.publish(catalogue, signers)
        answer(words)

    return connected(args, sign_anew)


def check_heads_url(heads: str) -> str:
    """Check a URL that a catalogue will name; returns what is to be said of it.

    Raises:
        UsageError: workers would not go there.
    """
    if scheme_of(heads) == "http":
        return "; by http only workers fetch heads that have this URL as their own --heads"
    from_catalogue(heads)
    return ""


def trust(args: argparse.Namespace) -> int:
    """``flexspec head trust``: returns the exit code."""
    head = head_options(args)
    family, root = head.named_family(), PrivateKey.load(args.root)
    if head.root_key is not None and head.root() != root.public:
        raise UsageError(
            f"{args.root} is another key than --root-key", hint="give the one that belongs to it"
        )

    def key_set(serial: int) -> bytes:
        keys = tuple(read_public(signer) for signer in args.signer)
        reset = int(time.time()) if args.reset else 0
        return seal(KeySet(FORMAT, family, serial, args.threshold, keys, reset), [root])

    if args.out is not None:
        if args.serial is None:
            hint = "the first key set has 1, each later one a higher one"
            raise UsageError("--out needs --serial", hint=hint)
        _write(args.out, key_set(args.serial))
        how = "publish it with `flexspec head send`"
        answer(f"wrote {args.out}: key set {args.serial} of {family}; {how}")
        return 0

    async def sign_and_send(client: CatalogueClient) -> None:
        serial = args.serial
        if serial is None:
            try:
                serial = client.keys().serial + 1
            except UsageError as error:
                raise UsageError(error.message, hint="give --serial; the first key set has 1") from error
        await _send_keys(client, key_set(serial))

    return connected(args, sign_and_send, root=root.public)


def send(args: argparse.Namespace) -> int:
    """``flexspec head send``: returns the exit code."""
    head = head_options(args)
    key_set = _key_set(args.file, head.named_family(), head.root())
    return connected(args, lambda client: _send_keys(client, key_set))


async def _send_keys(client: CatalogueClient, payload: bytes) -> None:
    await client.trust(payload)
    keys, catalogue = client.keys(), client.follower.catalogue
    signers = f"{keys.threshold} of {len(keys.keys)} keys sign"
    answer(f"published key set {keys.serial} of {keys.family}: {signers}")
    if catalogue is not None and catalogue.key_set != keys.serial:
        answer("the catalogue is still signed under the one before: now `flexspec head renew`")


def _states(catalogue: Catalogue) -> str:
    return ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)


def _key_set(path: Path, family: str, root: bytes) -> bytes:
    """The key set in a file.

    Raises:
        UsageError: it is not one that readers of this family take up.
    """
    payload = _read(path)
    try:
        open_signed(payload, KeySet, family, [root])
    except SignedRefused as error:
        hint = (
            error.hint
            or "give what `flexspec head trust --out` has written, signed with the key of --root-key"
        )
        raise UsageError(f"{path}: {error.message}", hint=hint) from error
    return payload


def _read(path: Path) -> bytes:
    """Read what a command has written with ``--out``.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give what --out has written") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file for ``--out``, whole or not at all.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} is there already", hint="give another file")
    try:
        with whole(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="give another file") from error
