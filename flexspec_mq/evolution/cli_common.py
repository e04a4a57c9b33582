"""What the commands of ``flexspec head`` share: flags, a connection, and how they speak."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.evolution.settings import add_arguments, from_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flexspec_mq.evolution.catalogue_client import Board


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


def connected(
    args: argparse.Namespace,
    work: Callable[[Board], Coroutine[Any, Any, None]],
    filters: tuple[str, ...] = (),
    others: Callable[[Any], None] | None = None,
    *,
    root: bytes | None = None,
) -> int:
    """Do something with a family's topics, once what the broker holds has been read."""
    from flexspec_mq.evolution.catalogue_client import board

    config = from_arguments(args).settings
    found_root = config.head.root() if root is None else root

    async def run() -> None:
        async with stoppable(), board(config, found_root, filters, others) as found:
            await found.look()
            await work(found)

    asyncio.run(run())
    return 0
