"""Signers whose keys lie on different machines: a change is written to a file, signed there one by one, and sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.cli_common import add_command, connected
from flexspec_mq.evolution.settings import from_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from flexspec_mq.catalogue.signing import Opened, PrivateKey
    from flexspec_mq.evolution.catalogue_client import Board
    from schemas.catalogue import Catalogue

_MOST = 1 << 14


class _Change(msgspec.Struct, frozen=True, array_like=True):
    """What the file holds.

    Attributes:
        before: epoch of the catalogue that was changed; 0 of none.
        payload: the next one, with the signatures so far.
    """

    before: Annotated[int, Meta(ge=0)]
    payload: bytes


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out``."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the signed change instead of publishing it, for others to `sign` and to `send`",
    )


def add_apart_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sign`` and ``send``."""
    sign = add_command(actions, "sign", _sign, "add signatures to a change that --out has written")
    send = add_command(
        actions, "send", _send, "publish a change that enough signers have signed", without=("key",)
    )
    for parser in (sign, send):
        parser.add_argument("file", type=Path, metavar="FILE", help="what --out has written")


async def publish_or_write(
    found: Board, catalogue: Catalogue, signers: Sequence[PrivateKey], out: Path | None, said: str
) -> None:
    """Publish a catalogue and say so, or with a file write it there.

    Args:
        found: of the family.
        catalogue: an edit of the present one, or the first.
        signers: whose keys are here.
        out: the file.
        said: for people, once it is published.

    Raises:
        UsageError: no signer's key counts, or too few do and there is no file; or that cannot be written.
        LinkError: as `Board.publish` does.
    """
    if out is None:
        await found.publish(catalogue, signers)
        answer(said)
        return
    present = found.follower.catalogue
    payload = found.sealed(catalogue, found.that_count(signers, others_sign=True))
    _write(out, _Change(0 if present is None else present.epoch, payload), new=True)
    answer(
        f"wrote {out}: {_described(catalogue)}; publish it with `flexspec head send`, once enough have signed"
    )


def _sign(args: argparse.Namespace) -> int:
    from flexspec_mq.catalogue.signing import cosigned
    from schemas.catalogue import Catalogue

    head = from_arguments(args).settings.head
    keys, family = head.signers(), head.named_family()
    change, body = _read(args.file, family)
    payload = cosigned(change.payload, Catalogue, family, keys)
    _write(args.file, _Change(change.before, payload))
    answer(f"signed {args.file}: {_described(body.body)}")
    return 0


def _send(args: argparse.Namespace) -> int:
    head = from_arguments(args).settings.head
    change, body = _read(args.file, head.named_family())

    async def send(found: Board) -> None:
        _check(found, change, body)
        await found.send(change.payload)
        answer(f"published {_described(body.body)}")

    return connected(args, send)


def _check(found: Board, change: _Change, opened: Opened[Catalogue]) -> None:
    """Say what keeps a change from being taken up.

    Raises:
        UsageError: too few have signed it, or it comes too late.
    """
    again = "make the change again, with --out"
    keys, body, present = found.keys(), opened.body, found.follower.catalogue
    if body.key_set != keys.serial:
        raise UsageError(
            f"the change was signed under key set {body.key_set}; key set {keys.serial} counts now",
            hint=again,
        )
    epoch = 0 if present is None else present.epoch
    if change.before != epoch:
        what = "published already" if epoch == body.epoch else f"of epoch {change.before}, not of {epoch}"
        raise UsageError(
            f"the change is {what}, which is the newest catalogue of {keys.family}",
            hint=f"look at `flexspec head list`; if the change is not in there, {again}",
        )
    late = found.clock() - body.epoch - body.lifetime
    if late >= 0:
        raise UsageError(
            f"the change was issued {body.lifetime + late:.0f} s ago and holds for {body.lifetime} s",
            hint=again,
        )
    if (count := opened.signers(keys.keys)) < keys.threshold:
        raise UsageError(
            f"key set {keys.serial} of {keys.family} asks for {keys.threshold} signatures of its keys; "
            f"the change has {count} of them",
            hint="let another signer add one: `flexspec head sign FILE --key KEY`",
        )


def _described(catalogue: Catalogue) -> str:
    states = ", ".join(f"{one.name} {one.state.name.lower()}" for one in catalogue.versions)
    expires = time.strftime("%Y-%m-%d %H:%M", time.localtime(catalogue.epoch + catalogue.lifetime))
    return f"{catalogue.family}: {states}; epoch {catalogue.epoch}, expires {expires}"


def _read(path: Path, family: str) -> tuple[_Change, Opened[Catalogue]]:
    from flexspec_mq.catalogue.refusals import SignedRefused
    from flexspec_mq.catalogue.signing import opened
    from schemas.catalogue import Catalogue

    try:
        with path.open("rb") as file:
            change = msgspec.msgpack.decode(file.read(_MOST), type=_Change)
        return change, opened(change.payload, Catalogue, family)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give what --out has written") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no change: {error}", hint="give what --out has written") from error
    except SignedRefused as error:
        raise UsageError(f"{path}: {error.message}", hint="give what --out has written") from error


def _write(path: Path, change: _Change, *, new: bool = False) -> None:
    if new and path.exists():
        raise UsageError(f"{path} is there already", hint="give another file")
    try:
        with whole(path) as part:
            part.write_bytes(msgspec.msgpack.encode(change))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="give another file") from error
