"""``flexspec top``: what an edge node does, live in the terminal; q ends it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING

from flexspec_mq import waiting
from flexspec_mq.chat.settings import PROGRAM, ChatOptions
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer, in_foreground
from flexspec_mq.daemon.retry import Backoff
from flexspec_mq.daemon.signals import on_signal, stoppable
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    RemoteProtocolError,
    UsageError,
    how_to_install,
)
from flexspec_mq.settings import add_flags, load

if TYPE_CHECKING:
    from rich.console import Console

    from flexspec_mq.chat.api import ApiClient
    from flexspec_mq.chat.overview import Overview, Screenful

_WIDTH = 160
"""Columns of what is printed where there is no terminal."""
_FINAL = (UsageError, LinkRefused, RemoteProtocolError)
"""Errors that waiting does not mend."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


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
    try:
        import httpx2  # noqa: F401
    except ModuleNotFoundError as error:
        hint = f"install it, {how_to_install('chat')}"
        raise UsageError(f"flexspec top needs {error.name}", hint=hint) from error
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

    console = Console(highlight=False)
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
        elif console.is_terminal:
            console.print(screen)
        else:
            options = console.options.update(width=_WIDTH)
            for line in console.render_lines(screen, options, pad=False):
                answer("".join(segment.text for segment in line).rstrip())


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


async def follow(api: ApiClient, overview: Overview, changed: Callable[[], None]) -> None:
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
                    changed()
        except _FINAL:
            raise
        except FlexSpecError as error:
            tries += 1
            overview.away = error.message
            changed()
            await asyncio.sleep(backoff.delay(tries))


async def _watch(api: ApiClient, overview: Overview, screen: Screenful, console: Console) -> None:
    """Show a node until somebody presses q or Ctrl-C; Ctrl-Z gives the terminal back for a while."""
    news = asyncio.Event()
    async with running(follow(api, overview, news.set), "events") as follows:
        follows.add_done_callback(lambda _: news.set())
        while await _draw(screen, console, follows, news):
            os.kill(os.getpid(), signal.SIGSTOP)
        if follows.done():
            await follows


async def _draw(
    screen: Screenful, console: Console, follows: asyncio.Task[None], news: asyncio.Event
) -> bool:
    """Draw until it shall end, or stop for a while; tells which."""
    from rich.live import Live

    from flexspec_mq.chat.view import without_modes

    pressed: list[str] = []

    def press(key: str) -> None:
        pressed.append(key)
        news.set()

    def typed() -> None:
        keys = os.read(sys.stdin.fileno(), 1024)
        press("q" if b"q" in keys or not keys else "")

    loop = asyncio.get_running_loop()
    with (
        without_modes(termios.ICANON | termios.ECHO),
        Live(screen, console=console, screen=True, auto_refresh=False) as live,
        on_signal(lambda: press("q"), signal.SIGINT),
        on_signal(lambda: press("z"), signal.SIGTSTP),
        on_signal(news.set, signal.SIGWINCH),
    ):
        loop.add_reader(sys.stdin.fileno(), typed)
        try:
            while not ("q" in pressed or "z" in pressed or follows.done()):
                began = time.monotonic()
                live.refresh()
                took = time.monotonic() - began
                with suppress(TimeoutError):
                    async with asyncio.timeout(4 * waiting.LOOK):
                        await news.wait()
                news.clear()
                await asyncio.sleep(
                    max(0.4 * waiting.LOOK, 4 * took)
                )  # four fifths of a core are left to the node
        finally:
            loop.remove_reader(sys.stdin.fileno())
    return "z" in pressed
