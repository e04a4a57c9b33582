"""``flexspec chat``: talk with an edge node's API in the terminal; /help lists the commands."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, get_args

from flexspec_mq import waiting
from flexspec_mq.chat.settings import NUMBERS, PROGRAM, ChatOptions
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.errors import Cancelled, FlexSpecError
from flexspec_mq.settings import add_flags, add_show_command, load, show
from schemas.openai import Offline

if TYPE_CHECKING:
    from flexspec_mq.chat.lines import Pipe, Terminal
    from flexspec_mq.chat.session import ChatSession

_INTERRUPT = (signal.SIGINT,)
"""Ctrl-C ends what is under way, not the chat."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv, extras="chat")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the chat's flags, and of ``config show``."""
    # No abbreviations: --api-key, which is no flag of ours, would be taken for --api-key-file.
    parser = argparse.ArgumentParser(prog="flexspec chat", description=__doc__, allow_abbrev=False)
    shows = add_show_command(parser.add_subparsers(dest="command", metavar="command"))
    for command in (parser, shows):
        add_flags(command, PROGRAM, titles={"chat": "API and terminal"}, inner=command is shows)
    text = parser.add_argument_group("text")
    text.add_argument("--system", metavar="TEXT", help="what the conversation begins with (default: nothing)")
    text.add_argument(
        "--offline",
        choices=get_args(Offline),
        help="while nobody can be reached: wait, have the draft write on (default on a terminal), or a worker",
    )
    for name, (_, what, default) in NUMBERS.items():
        text.add_argument(f"--{name.replace('_', '-')}", metavar="N", help=f"{what} (default: {default})")
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    loaded = load(PROGRAM, args)
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    given = {name: getattr(args, name) for name in ("system", "offline", *NUMBERS)}
    asked = {name: text for name, text in given.items() if text is not None}
    asked |= {name: NUMBERS[name].read(name, text) for name, text in asked.items() if name in NUMBERS}
    return asyncio.run(_talk(loaded.settings.chat, asked))


async def _talk(settings: ChatOptions, asked: dict[str, Any]) -> int:
    """Begin a conversation and have it go on; returns the exit code.

    Args:
        settings: where the API is.
        asked: fields of each request.
    """
    from flexspec_mq.chat.api import api_at
    from flexspec_mq.chat.lines import Pipe, Terminal
    from flexspec_mq.chat.session import COMMANDS, ChatSession, check_model
    from flexspec_mq.chat.view import View

    people = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if people:  # somebody waits and looks, as at the page
        asked = {"offline": "provisional", **asked, "wait": waiting.PATIENCE}
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes characters that a terminal may not have
    view = View(people=people)
    # What ends the program leaves the terminal as it was, and tells the node.
    async with stoppable(numbers=(signal.SIGTERM, signal.SIGHUP)), api_at(settings) as api:
        turns = Terminal(settings.history_file(), [*COMMANDS, "/quit"]) if people else Pipe()
        session = ChatSession(api, asked, view)
        async with stoppable(numbers=_INTERRUPT):
            known = await api.models()
        if settings.model is not None:
            check_model(settings.model, known)
            session.options["model"] = settings.model
        if people:
            view.say(f"{settings.base} · {settings.model or ', '.join(known)} · /help lists the commands")
        if settings.in_the_clear:
            view.aside(f"what is said to {settings.base} can be read on its way: it is not https")
        view.legend()
        return await _turns(session, turns)


async def _turns(session: ChatSession, turns: Pipe | Terminal) -> int:
    """Take turn after turn until the user ends; returns the exit code."""
    code = 0
    while True:
        try:
            if (line := await turns.next()) is None or line.strip() == "/quit":
                return code
            async with stoppable(numbers=_INTERRUPT):
                await session.take(line)
        except Cancelled:
            if not session.view.people:
                raise
        except FlexSpecError as error:
            session.view.error(error)
            if not session.view.people:
                code = code or error.exit_code
