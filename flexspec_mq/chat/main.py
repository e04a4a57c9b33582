"""``flexspec chat``: talk with an edge node's API in the terminal; /help lists the commands."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from flexspec_mq.chat.settings import add_arguments, from_arguments
from flexspec_mq.chat.wishes import NUMBERS, Wishes
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import Cancelled, FlexSpecError, UsageError, how_to_install
from flexspec_mq.settings import add_show_command, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.chat.lines import Lines
    from flexspec_mq.chat.session import Session
    from flexspec_mq.chat.settings import ChatOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_main, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the chat's flags, and of ``config show``."""
    # No abbreviations: --api-key, which is no flag of ours, would be taken for --api-key-file.
    parser = argparse.ArgumentParser(prog="flexspec chat", description=__doc__, allow_abbrev=False)
    shows = add_show_command(parser.add_subparsers(dest="command", metavar="command"))
    for one in (parser, shows):
        add_arguments(one, inner=one is shows)
    text = parser.add_argument_group("text")
    text.add_argument("--system", metavar="TEXT", help="what the conversation begins with (default: nothing)")
    for name, number in NUMBERS.items():
        text.add_argument(
            f"--{name.replace('_', '-')}", metavar="N", help=f"{number.help} (default: {number.unset})"
        )
    return parser


def _main(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    loaded = from_arguments(args)
    if args.command == "config":
        show(loaded, json=args.json)
        return 0
    options = loaded.settings.chat
    given = {name: text for name in NUMBERS if (text := getattr(args, name)) is not None}
    wishes = Wishes(
        model=options.model,
        system=args.system,
        **{name: NUMBERS[name].read(name, text) for name, text in given.items()},  # type: ignore[arg-type]
    )
    try:
        import httpx2  # noqa: F401
        import prompt_toolkit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"flexspec chat needs {error.name}", hint=f"install it, {how_to_install('chat')}"
        ) from error
    return asyncio.run(_run(options, wishes))


async def _run(options: ChatOptions, wishes: Wishes) -> int:
    from flexspec_mq.chat.api import api_at
    from flexspec_mq.chat.commands import COMMANDS, check_model
    from flexspec_mq.chat.conversation import Conversation
    from flexspec_mq.chat.lines import lines
    from flexspec_mq.chat.session import Session, interruptible
    from flexspec_mq.chat.view import View

    people = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes characters that a terminal may not have
    view = View(people=people, color=options.color)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine always runs in a task
    for number in (signal.SIGTERM, signal.SIGHUP):  # leave the terminal as it was, and tell the node
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with api_at(options) as api:
        turns = lines(people=people, history=options.history_file, words=COMMANDS)
        session = Session(api, Conversation(wishes), view)

        async def look() -> None:
            known = await api.models()
            if wishes.model is not None:
                check_model(wishes.model, known)
            if people:
                view.say(f"{options.base} · {wishes.model or ', '.join(known)} · /help lists the commands")

        try:
            await interruptible(look())
            if options.in_the_clear:
                view.aside(f"what is said to {options.base} can be read on its way: it is not https")
            view.legend()
            return await _talk(session, turns)
        except asyncio.CancelledError:
            raise Cancelled("stopped") from None


async def _talk(session: Session, turns: Lines) -> int:
    """Turn after turn until the user ends; returns the exit code."""
    from flexspec_mq.chat.commands import Quit, take
    from flexspec_mq.chat.session import interruptible

    code = 0
    while True:
        try:
            said = await turns.next()
            if said is None:
                return code
            await interruptible(take(session, said))
        except Quit:
            return code
        except Cancelled:
            if not session.view.people:
                raise
        except FlexSpecError as error:
            session.view.error(error)
            if not session.view.people:
                code = code or error.exit_code
