"""Signers whose keys lie on different machines: a change is written to a file, signed there one by one, and sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.cli_common import add_command, connected, read_signed, write_signed
from flexspec_mq.evolution.settings import from_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from flexspec_mq.catalogue.signing import Opened, PrivateKey
    from flexspec_mq.evolution.catalogue_client import CatalogueClient
    from schemas.catalogue import Catalogue


def add_offline_signing_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sign`` and ``send``."""
    sign = add_command(actions, "sign", _sign, "add signatures to a change that --out has written")
    about = "publish a change that enough signers have signed"
    send = add_command(actions, "send", _send, about, without=("key",))
    for parser in (sign, send):
        parser.add_argument("file", type=Path, metavar="FILE", help="what --out has written")


async def publish_or_write(
    client: CatalogueClient, catalogue: Catalogue, signers: Sequence[PrivateKey], out: Path | None, words: str
) -> None:
    """Publish a catalogue and say so, or with a file write it there.

    Raises:
        UsageError: no signer's key counts, or too few do and there is no file; or that cannot be written.
        LinkError: as `CatalogueClient.publish` does.
    """
    if out is None:
        await client.publish(catalogue, signers)
        answer(words)
        return
    present = client.follower.catalogue
    payload = client.sealed(catalogue, client.valid_signers(signers, others_sign=True))
    _write(out, 0 if present is None else present.epoch, payload, new=True)
    how = "publish it with `flexspec head send`, once enough have signed"
    answer(f"wrote {out}: {_described(catalogue)}; {how}")


def _sign(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue.signing import cosigned
    from schemas.catalogue import Catalogue

    head = from_arguments(args).settings.head
    keys, family = head.signers(), head.named_family()
    before, change = _read(args.file, family)
    _write(args.file, before, cosigned(change.payload, Catalogue, family, keys), new=False)
    answer(f"signed {args.file}: {_described(change.body)}")
    return 0


def _send(args: argparse.Namespace) -> int:
    before, change = _read(args.file, from_arguments(args).settings.head.named_family())

    async def send(client: CatalogueClient) -> None:
        _check(client, before, change)
        await client.send(change.payload)
        answer(f"published {_described(change.body)}")

    return connected(args, send)


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
    states = ", ".join(f"{version.name} {version.state.name.lower()}" for version in catalogue.versions)
    expires = time.strftime("%Y-%m-%d %H:%M", time.localtime(catalogue.epoch + catalogue.lifetime))
    return f"{catalogue.family}: {states}; epoch {catalogue.epoch}, expires {expires}"


def _read(path: Path, family: str) -> tuple[int, Opened[Catalogue]]:
    """Epoch of the catalogue that was changed (0: none), and the next one, with the signatures so far."""
    from flexspec_mq.catalogue.refusals import SignedRefused
    from flexspec_mq.catalogue.signing import opened
    from schemas.catalogue import Catalogue

    try:
        before, payload = msgspec.msgpack.decode(read_signed(path), type=tuple[int, bytes])
        return before, opened(payload, Catalogue, family)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no change: {error}", hint="give what --out has written") from error
    except SignedRefused as error:
        raise UsageError(f"{path}: {error.message}", hint="give what --out has written") from error


def _write(path: Path, before: int, payload: bytes, *, new: bool) -> None:
    write_signed(path, msgspec.msgpack.encode((before, payload)), new=new)
