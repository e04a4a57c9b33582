"""What a line that begins with a slash does."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.chat.options import NONE, NUMBERS
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.terminal.printable import printable

if TYPE_CHECKING:
    from flexspec_mq.chat.session import Session

KEYS = (
    ("Alt-Enter, or \\ Enter", "a line break"),
    ("Ctrl-C", "stops an answer, throws a line away, or ends the chat at an empty one"),
    ("Ctrl-D", "ends the chat"),
    ("//…", "a line that begins with one slash"),
)


class Quit(FlexSpecError):
    """The user ends the chat."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    Attributes:
        takes: its argument, in words.
        help: what it does.
        run: does it.
    """

    takes: str
    help: str
    run: Callable[[Session, str], Awaitable[None]]


async def take(session: Session, said: str) -> None:
    """A turn of the user: a command, or a question.

    Raises:
        Quit: the user ends the chat.
        FlexSpecError: it cannot be done; nothing has changed but what a failed question leaves.
    """
    if said.startswith("//"):
        said = said[1:]
    elif said.startswith("/"):
        name, _, argument = said.partition(" ")
        await find(name.strip()).run(session, argument.strip())
        return
    if said.strip():
        await session.ask(said)


def find(name: str) -> Command:
    """The command of a name.

    Raises:
        UsageError: there is none.
    """
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(COMMANDS)
        raise UsageError(
            f"there is no command {name[:40]}", hint=f"{meant}there is {known}; // begins a line with a slash"
        )
    return command


async def _model(session: Session, name: str) -> None:
    known = await session.api.models()
    options = session.conversation.options
    if not name:
        current = options.model or session.version or (known[0] if len(known) == 1 else None)
        for each in known:
            session.view.say(f"{'*' if each == current else ' '} {each}")
        if current is None:
            session.view.say("the node's own is used; /model NAME takes another")
        elif current not in known:
            session.view.say(f"* {current} (gone)")
        return
    check_model(name, known)
    options.model = name
    session.view.say(f"model: {name}")


def check_model(name: str, known: list[str]) -> None:
    """Refuse a model that the API does not have.

    Raises:
        UsageError: naming those that it has.
    """
    if name not in known:
        raise UsageError(f"there is no model {name}", hint=printable(f"there is {', '.join(known)}"))


def _number(name: str) -> Command:
    number = NUMBERS[name]
    word = name.replace("_", "-")

    async def run(session: Session, text: str) -> None:
        options = session.conversation.options
        if text:
            setattr(options, name, None if text == NONE else number.read(name, text))
        value = getattr(options, name)
        last = f"; the last one was {session.seed}" if name == "seed" and session.seed is not None else ""
        session.view.say(f"{word}: {number.unset if value is None else value}{last if value is None else ''}")

    return Command(f"[N | {NONE}]", f"{number.help}; none: {number.unset}", run)


async def _system(session: Session, text: str) -> None:
    options = session.conversation.options
    if text:
        options.system = None if text == NONE else text
    session.view.say(f"system: {options.system or NONE}")


async def _retry(session: Session, _: str) -> None:
    question = session.conversation.take_back()
    if question is None:
        raise UsageError("nothing was asked yet")
    session.view.aside(f"› {question}")
    await session.ask(question)


async def _undo(session: Session, _: str) -> None:
    question = session.conversation.take_back()
    if question is None:
        raise UsageError("nothing was asked yet")
    session.view.say(f"taken back: {question}")


async def _clear(session: Session, _: str) -> None:
    session.conversation.clear()
    session.view.say("the conversation begins anew; model, system and numbers stay")


async def _stats(session: Session, _: str) -> None:
    session.view.table(session.totals.rows())


async def _save(session: Session, name: str) -> None:
    session.conversation.save(_path(name))
    session.view.say(f"saved {len(session.conversation.exchanges)} exchanges to {name}")


async def _load(session: Session, name: str) -> None:
    session.conversation.load(_path(name))
    for exchange in session.conversation.exchanges:
        session.view.aside(f"› {exchange.question}")
        session.view.say(exchange.answer)
    session.view.say(f"loaded {len(session.conversation.exchanges)} exchanges from {name}")


def _path(name: str) -> Path:
    if not name:
        raise UsageError("which file?", hint="for example /save talk.json")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name} names no folder: {error}") from error


async def _help(session: Session, _: str) -> None:
    commands = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
    session.view.table([*commands, *KEYS])


async def _quit(_session: Session, _: str) -> None:
    raise Quit("the user ends the chat")


COMMANDS = {
    "/model": Command("[NAME]", "the target versions that there are, or takes another", _model),
    **{
        f"/{name.replace('_', '-')}": _number(name) for name in ("seed", "temperature", "top_p", "max_tokens")
    },
    "/system": Command(f"[TEXT | {NONE}]", "what the conversation begins with", _system),
    "/retry": Command("", "asks the last question again, in place of its answer", _retry),
    "/undo": Command("", "takes the last question back, with its answer", _undo),
    "/clear": Command("", "begins a new conversation", _clear),
    "/stats": Command("", "what all answers took", _stats),
    "/save": Command("FILE", "writes the conversation as JSON", _save),
    "/load": Command("FILE", "goes on with a conversation from a file", _load),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "ends the chat", _quit),
}
