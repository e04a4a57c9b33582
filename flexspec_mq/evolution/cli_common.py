"""Common parts of the commands of ``flexspec head``: flags, a connection, and files of signed bytes."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.settings import add_arguments, from_arguments
from flexspec_mq.settings.flags import positive

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flexspec_mq.evolution.catalogue_client import CatalogueClient

DAY = 86_400
_MOST = 1 << 16
"""Bytes that are read of a file."""


def add_command(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    func: Callable[[argparse.Namespace], int],
    about: str,
    *,
    without: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """Add a command that is told which broker and family."""
    parser = actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    add_arguments(parser, without=without)
    parser.set_defaults(func=func)
    return parser


def add_lifetime(parser: argparse.ArgumentParser, about: str) -> None:
    """Add ``--lifetime``."""
    parser.add_argument("--lifetime", type=positive, metavar="DAYS", help=about)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out``."""
    about = "write the signed change instead of publishing it, for others to `sign` and to `send`"
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)


def connected(
    args: argparse.Namespace,
    work: Callable[[CatalogueClient], Coroutine[Any, Any, None]],
    filters: tuple[str, ...] = (),
    others: Callable[[Any], None] | None = None,
    *,
    root: bytes | None = None,
) -> int:
    """Do something with a family's topics, once what the broker holds has been read."""
    from flexspec_mq.evolution.catalogue_client import catalogue_client

    config = from_arguments(args).settings
    root_key = config.head.root() if root is None else root

    async def run() -> None:
        async with stoppable(), catalogue_client(config, root_key, filters, others) as client:
            await client.look()
            await work(client)

    asyncio.run(run())
    return 0


def read_signed(path: Path) -> bytes:
    """Read what a command has written with ``--out``.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="give what --out has written") from error


def write_signed(path: Path, data: bytes, *, new: bool = True) -> None:
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
