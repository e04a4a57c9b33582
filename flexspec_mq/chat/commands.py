"""Commands: lines that begin with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq.chat.conversation import NONE, NUMBERS
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.terminal.printable import printable

if TYPE_CHECKING:
    from flexspec_mq.chat.session import ChatSession

KEYS = (
    ("Alt-Enter, or \\ Enter", "a line break"),
    ("Ctrl-C", "stops an answer, throws a line away, or ends the chat at an empty one"),
    ("Ctrl-D", "ends the chat"),
    ("//…", "a line that begins with one slash"),
)


class Quit(FlexSpecError):
    """The user ends the chat."""


class Command(NamedTuple):
    """A command: its argument in words, what it does, and what does it."""

    takes: str
    help: str
    run: Callable[[ChatSession, str], Awaitable[None]]


async def take(session: ChatSession, said: str) -> None:
    """Take a turn of the user: a command, or a question.

    Raises:
        Quit: the user ends the chat.
        FlexSpecError: it cannot be done; nothing has changed but what a failed question leaves.
    """
    if said.startswith("/") and not said.startswith("//"):
        name, _, argument = said.partition(" ")
        command = COMMANDS.get(name.strip())
        if command is None:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            known = f"there is {', '.join(COMMANDS)}; // begins a line with a slash"
            raise UsageError(f"there is no command {name[:40]}", hint=meant + known)
        await command.run(session, argument.strip())
    elif said.strip():
        await session.ask(said.removeprefix("/"))


def check_model(name: str, known: list[str]) -> None:
    """Refuse a model that the API does not have.

    Raises:
        UsageError: naming those that it has.
    """
    if name not in known:
        raise UsageError(f"there is no model {name}", hint=printable(f"there is {', '.join(known)}"))


async def _model(session: ChatSession, name: str) -> None:
    known = await session.api.models()
    options = session.conversation.options
    if name:
        check_model(name, known)
        options.model = name
        session.view.say(f"model: {name}")
        return
    current = options.model or session.version or (known[0] if len(known) == 1 else None)
    for model in known:
        session.view.say(f"{'*' if model == current else ' '} {model}")
    if current is None:
        session.view.say("the node's own is used; /model NAME takes another")
    elif current not in known:
        session.view.say(f"* {current} (gone)")


def _number(name: str) -> Command:
    number = NUMBERS[name]

    async def run(session: ChatSession, text: str) -> None:
        options = session.conversation.options
        if text:
            setattr(options, name, None if text == NONE else number.read(name, text))
        value = getattr(options, name)
        shown = number.unset if value is None else f"{value}"
        if value is None and name == "seed" and session.seed is not None:
            shown += f"; the last one was {session.seed}"
        session.view.say(f"{name.replace('_', '-')}: {shown}")

    return Command(f"[N | {NONE}]", f"{number.help}; none: {number.unset}", run)


async def _system(session: ChatSession, text: str) -> None:
    options = session.conversation.options
    if text:
        options.system = None if text == NONE else text
    session.view.say(f"system: {options.system or NONE}")


async def _retry(session: ChatSession, _: str) -> None:
    question = session.conversation.take_back()
    session.view.aside(f"› {question}")
    await session.ask(question)


async def _undo(session: ChatSession, _: str) -> None:
    session.view.say(f"taken back: {session.conversation.take_back()}")


async def _clear(session: ChatSession, _: str) -> None:
    session.conversation.exchanges, session.conversation.unanswered = [], None
    session.view.say("the conversation begins anew; model, system and numbers stay")


async def _stats(session: ChatSession, _: str) -> None:
    session.view.table(session.totals.rows())


async def _save(session: ChatSession, name: str) -> None:
    session.conversation.save(_path(name))
    session.view.say(f"saved {len(session.conversation.exchanges)} exchanges to {name}")


async def _load(session: ChatSession, name: str) -> None:
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


async def _help(session: ChatSession, _: str) -> None:
    commands = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
    session.view.table([*commands, *KEYS])


async def _quit(_session: ChatSession, _: str) -> None:
    raise Quit("the user ends the chat")


COMMANDS = {
    "/model": Command("[NAME]", "the target versions that there are, or takes another", _model),
    "/seed": _number("seed"),
    "/temperature": _number("temperature"),
    "/top-p": _number("top_p"),
    "/max-tokens": _number("max_tokens"),
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
