"""Changes of a catalogue and of its key set: published, or written to a file that others sign and somebody sends."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.refusals import SignedRefused
from flexspec_mq.catalogue.signing import Opened, PrivateKey, cosigned, open_signed, opened, read_public, seal
from flexspec_mq.daemon.dated import LIFETIME, day
from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.catalogue_client import CatalogueClient, connected
from flexspec_mq.evolution.settings import head_options
from flexspec_mq.heads.place import from_catalogue, scheme_of
from schemas.catalogue import FORMAT, Catalogue, KeySet, Signed

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
        await publish_or_write(client, catalogue, signers, args.out, words)

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
        await publish_or_write(client, catalogue, signers, args.out, words)

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


async def publish_or_write(
    client: CatalogueClient, catalogue: Catalogue, signers: Sequence[PrivateKey], out: Path | None, words: str
) -> None:
    """Publish a catalogue and say so, or with a file write it there.

    Raises:
        UsageError: no signer's key counts, or too few do and there is no file; or that cannot be written.
        LinkError: as `CatalogueClient.publish` does.
    """
    if out is None:
        unknown = await client.publish(catalogue, signers)
        answer(words)
        _tell(unknown)
        return
    present = client.follower.catalogue
    payload = client.sealed(catalogue, client.valid_signers(signers, others_sign=True))
    _write(out, msgspec.msgpack.encode((0 if present is None else present.epoch, payload)))
    how = "publish it with `flexspec head send`, once enough have signed"
    answer(f"wrote {out}: {_described(catalogue)}; {how}")


def sign(args: argparse.Namespace) -> int:
    """``flexspec head sign``: returns the exit code."""
    head = head_options(args)
    keys, family = head.signers(), head.named_family()
    before, change = _change(args.file, family)
    signed = cosigned(change.payload, Catalogue, family, keys)
    _write(args.file, msgspec.msgpack.encode((before, signed)), new=False)
    answer(f"signed {args.file}: {_described(change.body)}")
    return 0


def trust(args: argparse.Namespace) -> int:
    """``flexspec head trust``: returns the exit code."""
    head = head_options(args)
    family, root = head.named_family(), PrivateKey.load(args.root)
    if head.root_key is not None and head.root() != root.public:
        raise UsageError(
            f"{args.root} is another key than --root-key", hint="give the one that belongs to it"
        )

    given = tuple(read_public(signer) for signer in args.signer or ())

    def key_set(serial: int, keys: tuple[bytes, ...], threshold: int) -> bytes:
        now = int(time.time())
        reset = now if args.reset else 0
        return seal(KeySet(FORMAT, family, serial, threshold, keys, reset, now + LIFETIME), [root])

    if args.out is not None:
        if args.serial is None or not given:
            hint = "the first key set has the serial 1, each later one a higher one"
            raise UsageError("--out needs --serial and --signer", hint=hint)
        _write(args.out, key_set(args.serial, given, args.threshold or 1))
        how = "publish it with `flexspec head send`"
        answer(f"wrote {args.out}: key set {args.serial} of {family}; {how}")
        return 0

    async def sign_and_send(client: CatalogueClient) -> None:
        serial, keys, threshold = args.serial, given, args.threshold or 1
        if serial is None or not keys:
            try:
                present = client.keys()
            except UsageError as error:
                hint = "give --serial and --signer; the first key set has the serial 1"
                raise UsageError(error.message, hint=hint) from error
            serial = serial or present.serial + 1
            if not keys:
                keys, threshold = present.keys, args.threshold or present.threshold
        await _send_keys(client, key_set(serial, keys, threshold))

    return connected(args, sign_and_send, root=root.public)


def send(args: argparse.Namespace) -> int:
    """``flexspec head send``: returns the exit code."""
    head = head_options(args)
    key_set = _key_set(args.file, head.named_family(), head.root())
    if key_set is not None:
        return connected(args, lambda client: _send_keys(client, key_set))
    before, change = _change(args.file, head.named_family())

    async def publish(client: CatalogueClient) -> None:
        _check(client, before, change)
        unknown = await client.send(change.payload)
        answer(f"published {_described(change.body)}")
        _tell(unknown)

    return connected(args, publish)


async def _send_keys(client: CatalogueClient, payload: bytes) -> None:
    unknown = await client.trust(payload)
    keys, catalogue = client.keys(), client.follower.catalogue
    signers = f"{keys.threshold} of {len(keys.keys)} keys sign"
    answer(f"published key set {keys.serial} of {keys.family}: {signers}, until {day(keys.expires)}")
    if catalogue is not None and catalogue.key_set != keys.serial:
        answer("the catalogue is still signed under the one before: now `flexspec head renew`")
    _tell(unknown)


def _tell(words: str) -> None:
    if words:
        answer(words)


def _check(client: CatalogueClient, before: int, change: Opened[Catalogue]) -> None:
    """Say what keeps a change from being taken up.

    Raises:
        UsageError: too few have signed it, or it comes too late.
    """
    again = "make the change again, with --out"
    keys, body, present = client.keys(), change.body, client.follower.catalogue
    if body.key_set != keys.serial:
        raise UsageError(
            f"the change was signed under key set {body.key_set}; key set {keys.serial} counts now",
            hint=again,
        )
    epoch = 0 if present is None else present.epoch
    if before != epoch:
        what = "published already" if epoch == body.epoch else f"of epoch {before}, not of {epoch}"
        raise UsageError(
            f"the change is {what}, which is the newest catalogue of {keys.family}",
            hint=f"look at `flexspec head list`; if the change is not in there, {again}",
        )
    late = client.clock() - body.epoch - body.lifetime
    if late >= 0:
        raise UsageError(
            f"the change was issued {body.lifetime + late:.0f} s ago and holds for {body.lifetime} s",
            hint=again,
        )
    if (count := change.signers(keys.keys)) < keys.threshold:
        raise UsageError(
            f"key set {keys.serial} of {keys.family} asks for {keys.threshold} signatures of its keys; "
            f"the change has {count} of them",
            hint="let another signer add one: `flexspec head sign FILE --key KEY`",
        )


def _described(catalogue: Catalogue) -> str:
    expires = time.strftime("%Y-%m-%d %H:%M", time.localtime(catalogue.epoch + catalogue.lifetime))
    return f"{catalogue.family}: {_states(catalogue)}; epoch {catalogue.epoch}, expires {expires}"


def _states(catalogue: Catalogue) -> str:
    return ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)


def _key_set(path: Path, family: str, root: bytes) -> bytes | None:
    """The key set in a file; None if it is none.

    Raises:
        UsageError: it is not one that readers of this family take up.
    """
    payload = _read(path)
    try:
        msgspec.msgpack.decode(payload, type=Signed)
    except msgspec.MsgspecError:
        return None
    try:
        open_signed(payload, KeySet, family, [root])
    except SignedRefused as error:
        hint = error.hint or "sign it with the root key of --root-key"
        raise UsageError(error.message, hint=hint) from error
    return payload


def _change(path: Path, family: str) -> tuple[int, Opened[Catalogue]]:
    """Epoch of the catalogue that was changed (0: none), and the next one, with the signatures so far."""
    try:
        before, payload = msgspec.msgpack.decode(_read(path), type=tuple[int, bytes])
        return before, opened(payload, Catalogue, family)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no change: {error}", hint="give what --out has written") from error
    except SignedRefused as error:
        raise UsageError(f"{path}: {error.message}", hint="give what --out has written") from error


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


def _write(path: Path, data: bytes, *, new: bool = True) -> None:
    """Write a file for ``--out``, whole or not at all.

    Raises:
        UsageError: it is there already and should be new, or cannot be written.
    """
    if new and path.exists():
        raise UsageError(f"{path} is there already", hint="give another file")
    try:
        with whole(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="give another file") from error
