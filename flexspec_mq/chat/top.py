"""``flexspec top``: what an edge node does, live in the terminal; q ends it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import aclosing
from io import TextIOWrapper
from typing import TYPE_CHECKING

from flexspec_mq import waiting
from flexspec_mq.chat.settings import PROGRAM, ChatOptions
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer, in_foreground
from flexspec_mq.daemon.retry import Backoff
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    RemoteProtocolError,
    UsageError,
)
from flexspec_mq.settings import add_flags, load

if TYPE_CHECKING:
    from rich.console import Console

    from flexspec_mq.chat.api import ApiClient
    from flexspec_mq.chat.overview import Overview, Screenful

_WIDTH = 160
"""Columns of what is printed where there is no terminal."""
_END, _STOP = b"q\x03", 0x1A
"""Keys: q and Ctrl-C; Ctrl-Z."""
_FINAL = (UsageError, LinkRefused, RemoteProtocolError)
"""Errors that waiting does not mend."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="chat")


def build_parser() -> argparse.ArgumentParser:
    """The parser of its flags; where the API is, is as for the chat."""
    parser = argparse.ArgumentParser(prog="flexspec top", description=__doc__, allow_abbrev=False)
    add_flags(parser, PROGRAM, titles={"chat": "API"}, without=("model", "history"))
    parser.add_argument(
        "--once", action="store_true", help="print the state once; so it is without a terminal"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --once: the events' data as one JSON object"
    )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    settings = load(PROGRAM, args).settings.chat
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    asyncio.run(show(settings, once=args.once or args.json, as_json=args.json))
    return 0


async def show(settings: ChatOptions, *, once: bool, as_json: bool) -> None:
    """Show a node live, or print what it shows once.

    Raises:
        FlexSpecError: it cannot be reached, or refuses.
    """
    from rich.console import Console

    from flexspec_mq.chat.api import api_at
    from flexspec_mq.chat.overview import Overview, Screenful

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    alive = console.is_terminal and not console.is_dumb_terminal
    alive = alive and sys.stdin is not None and sys.stdin.isatty() and in_foreground(sys.stdout)
    overview = Overview()
    async with stoppable(), api_at(settings) as api:
        if alive and not once:
            await _watch(api, overview, Screenful(overview, settings.base, fits=True), console)
            return
        await look(api, overview)
        screen = Screenful(overview, settings.base)
        if as_json:
            answer(json.dumps(overview.report()))
        else:
            console.print(screen)


async def look(api: ApiClient, overview: Overview) -> None:
    """Take the events that a node begins with.

    Raises:
        FlexSpecError: they cannot be had.
    """
    from flexspec_mq.chat.api import AGAIN

    try:
        async with asyncio.timeout(waiting.CONNECT), aclosing(api.events()) as events:
            async for view in events:
                overview.take(view)
                if overview.fleet is not None:  # the last one
                    return
    except TimeoutError:  # what has come by then is what there is
        pass
    except FlexSpecError as error:
        raise type(error)(error.message, hint=error.hint.replace(AGAIN, "try again")) from error
    if overview.node is None:
        raise LinkDown("the edge node tells nothing of itself", hint="look at its log")


async def follow(api: ApiClient, overview: Overview) -> None:
    """Take events until cancelled; wait for a node that is not there, or not there any more.

    Raises:
        FlexSpecError: waiting would not mend it.
    """
    backoff, tries = Backoff(top=waiting.RETRY_AWAITED), 0
    while True:
        try:
            async with aclosing(api.events()) as events:
                async for view in events:
                    if tries or overview.node is None:
                        overview.texts.clear()  # what was written when the last stream broke may be forgotten
                        overview.away, tries = "", 0
                    overview.take(view)
        except _FINAL:
            raise
        except FlexSpecError as error:
            tries += 1
            overview.away = error.message
            await asyncio.sleep(backoff.delay(tries))


async def _watch(api: ApiClient, overview: Overview, screen: Screenful, console: Console) -> None:
    """Show a node until somebody presses q or Ctrl-C; Ctrl-Z gives the terminal back for a while."""
    async with running(follow(api, overview), "events") as follows:
        while await _draw(screen, console, follows) == _STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        if follows.done():
            await follows


async def _draw(screen: Screenful, console: Console, follows: asyncio.Task[None]) -> int | None:
    """Draw until a key says to end or to stop for a while, or there will be no events; returns the key."""
    from rich.live import Live

    from flexspec_mq.chat.view import without_modes

    pressed: list[int] = []

    def typed() -> None:
        keys = os.read(sys.stdin.fileno(), 1024)
        pressed.extend(key for key in keys or _END if key in (*_END, _STOP))

    loop = asyncio.get_running_loop()
    with (
        without_modes(termios.ICANON | termios.ECHO | termios.ISIG),
        Live(screen, console=console, screen=True, auto_refresh=False) as live,
    ):
        loop.add_reader(sys.stdin.fileno(), typed)
        try:
            while not (pressed or follows.done()):
                live.refresh()
                await asyncio.sleep(waiting.LOOK)
        finally:
            loop.remove_reader(sys.stdin.fileno())
    return pressed[0] if pressed else None
