"""``flexspec chat``: talk with an edge node's API in the terminal; /help lists the commands."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, get_args

from flexspec_mq.chat.settings import NUMBERS, PROGRAM, ChatOptions, GenerationOptions
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.errors import Cancelled, FlexSpecError, UsageError, how_to_install
from flexspec_mq.settings import add_flags, add_show_command, load, show
from schemas.openai import Offline

if TYPE_CHECKING:
    from flexspec_mq.chat.lines import Pipe, Terminal
    from flexspec_mq.chat.session import ChatSession

_INTERRUPT = (signal.SIGINT,)
"""Ctrl-C ends what is under way, not the chat."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


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
        help="while nobody can be reached: wait, have the draft write on, or a worker (default: the node's)",
    )
    for name, (_, setting) in NUMBERS.items():
        text.add_argument(
            f"--{name.replace('_', '-')}", metavar="N", help=f"{setting.help} (default: {setting.default})"
        )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    loaded = load(PROGRAM, args)
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    settings = loaded.settings.chat
    options = GenerationOptions(model=settings.model, system=args.system, offline=args.offline)
    for name, number in NUMBERS.items():
        if (text := getattr(args, name)) is not None:
            setattr(options, name, number.read(name, text))
    try:
        import httpx2  # noqa: F401
        import prompt_toolkit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"flexspec chat needs {error.name}", hint=f"install it, {how_to_install('chat')}"
        ) from error
    return asyncio.run(_run(settings, options))


async def _run(settings: ChatOptions, options: GenerationOptions) -> int:
    from flexspec_mq.chat.api import api_at
    from flexspec_mq.chat.lines import Pipe, Terminal
    from flexspec_mq.chat.session import COMMANDS, ChatSession, check_model
    from flexspec_mq.chat.view import View

    people = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes characters that a terminal may not have
    view = View(people=people)
    # What ends the program leaves the terminal as it was, and tells the node.
    async with stoppable(numbers=(signal.SIGTERM, signal.SIGHUP)), api_at(settings) as api:
        turns = Terminal(settings.history_file(), COMMANDS) if people else Pipe()
        session = ChatSession(api, options, view)
        async with stoppable(numbers=_INTERRUPT):
            known = await api.models()
        if options.model is not None:
            check_model(options.model, known)
        if people:
            view.say(f"{settings.base} · {options.model or ', '.join(known)} · /help lists the commands")
        if settings.in_the_clear:
            view.aside(f"what is said to {settings.base} can be read on its way: it is not https")
        view.legend()
        return await _talk(session, turns)


async def _talk(session: ChatSession, turns: Pipe | Terminal) -> int:
    """Turn after turn until the user ends; returns the exit code."""
    from flexspec_mq.chat.session import Quit

    code = 0
    while True:
        try:
            line = await turns.next()
            if line is None:
                return code
            async with stoppable(numbers=_INTERRUPT):
                await session.take(line)
        except Quit:
            return code
        except Cancelled:
            if not session.view.people:
                raise
        except FlexSpecError as error:
            session.view.error(error)
            if not session.view.people:
                code = code or error.exit_code
