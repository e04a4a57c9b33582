"""A chat: questions become answers that are shown as they come, and lines that begin with a slash are commands."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from flexspec_mq.chat.api import AGAIN, ApiClient, content, pieces, unverified
from flexspec_mq.chat.settings import NUMBERS, GenerationOptions
from flexspec_mq.energy.model import in_words
from flexspec_mq.errors import FlexSpecError, LinkDown, UsageError
from schemas.openai import Usage

if TYPE_CHECKING:
    from flexspec_mq.chat.answer import Answer
    from flexspec_mq.chat.view import View

NONE = "none"
"""The word that unsets an option."""
KEYS = (
    ("Alt-Enter, or \\ Enter", "a line break"),
    ("Ctrl-C", "stops an answer, throws a line away, or ends the chat at an empty one"),
    ("Ctrl-D", "ends the chat"),
    ("//…", "a line that begins with one slash"),
)


class Quit(FlexSpecError):
    """The user ends the chat."""


class ChatSession:
    """A conversation over an API, and where it is shown.

    Attributes:
        options: how the next answer is to be written.
        exchanges: questions and answers, the oldest first.
        unanswered: the last question, if it failed; the conversation stands as it was before it.
        version: target version that wrote the last answer; None before.
        seed: seed of the last answer; None before.
    """

    def __init__(self, api: ApiClient, options: GenerationOptions, view: View) -> None:
        self.api = api
        self.options = options
        self.view = view
        self.exchanges: list[tuple[str, str]] = []
        self.unanswered: str | None = None
        self.version: str | None = None
        self.seed: int | None = None
        self._asked: tuple[dict[str, Any], str] | None = (
            None  # the newest request and its key, until it is over
        )

    async def take(self, line: str) -> None:
        """Take a turn of the user: a command, or a question.

        Raises:
            Quit: the user ends the chat.
            FlexSpecError: it cannot be done; nothing has changed but what a failed question leaves.
        """
        if line.startswith("/") and not line.startswith("//"):
            name, _, argument = line.partition(" ")
            command = COMMANDS.get(name.strip())
            if command is None:
                hint = f"there is {', '.join(COMMANDS)}; // begins a line with a slash"
                raise UsageError(f"there is no command {name[:40]}", hint=hint)
            await command.run(self, argument.strip())
        elif line.strip():
            await self.ask(line.removeprefix("/"))

    async def ask(self, question: str) -> None:
        """Ask, show the answer, then what it took.

        Raises:
            FlexSpecError: there is no answer; the question is taken back.
        """
        if not question.strip():
            raise UsageError("the question is empty", hint="say what to write about")
        self.unanswered = question
        parts: list[str] = []
        try:
            with self.view.answer() as shown:
                line = await self._follow(question, shown, parts)
        except asyncio.CancelledError:
            self._asked = None
            self._stopped(question, "".join(parts))
            raise
        self._answered(question, "".join(parts))
        self.view.aside(line)

    async def _follow(self, question: str, shown: Answer, parts: list[str]) -> str:
        """Show an answer as it comes, and add its parts; returns the line of its figures."""
        shown.note("waiting for the first text · Ctrl-C stops")
        began, first, reason, behind = time.monotonic(), None, None, ""
        usage = Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        # One key for all attempts: the node starts one session at most, however often the connection breaks. A question
        # that failed goes on under its key as well, where it is asked again as it was.
        body = self.body(question)
        if self._asked is None or self._asked[0] != body:
            self._asked = body, uuid.uuid4().hex
        events = self.api.answer(*self._asked, lambda waiting: shown.note(f"{waiting} · Ctrl-C stops"))
        async with aclosing(events) as chunks:
            async for chunk in chunks:
                if text := content(chunk):
                    first = first or time.monotonic() - began
                    parts.append(text)
                    shown.note("")
                    shown.text(pieces(chunk))
                if chunk.flexspec and chunk.flexspec.waiting:
                    shown.note(f"{chunk.flexspec.waiting} · Ctrl-C stops")
                if behind != (behind := unverified(behind, chunk)):
                    shown.unverified(behind)
                usage = chunk.usage or usage
                reason = next((choice.finish_reason for choice in chunk.choices), None) or reason
                self.version = chunk.model or self.version
        self._asked = None
        if reason == "provisional":
            raise LinkDown("nobody could be reached: this is a draft that nobody has verified", hint=AGAIN)
        self.seed = usage.flexspec.seed
        self.version = usage.flexspec.version or self.version
        return figures(usage, reason, time.monotonic() - began, first)

    def body(self, question: str) -> dict[str, Any]:
        """The request for the answer to a question, with all that was said before."""
        options = {name: value for name, value in asdict(self.options).items() if value is not None}
        turns = [("system", options.pop("system"))] if "system" in options else []
        for earlier, answer in self.exchanges:
            turns += [("user", earlier), ("assistant", answer)]
        turns.append(("user", question))
        return {**options, "messages": [{"role": role, "content": text} for role, text in turns]}

    def take_back(self) -> str:
        """Take the last question back, with its answer if it has one.

        Raises:
            UsageError: nothing was asked yet.
        """
        if self.unanswered is not None:
            question, self.unanswered = self.unanswered, None
            return question
        if not self.exchanges:
            raise UsageError("nothing was asked yet")
        return self.exchanges.pop()[0]

    def _answered(self, question: str, answer: str) -> None:
        self.exchanges.append((question, answer))
        self.unanswered = None

    def _stopped(self, question: str, text: str) -> None:
        """Keep what was written until then, since it was read; take a question without any text back."""
        if text.strip():
            self._answered(question, text)
            self.view.aside("stopped; what was written stays, /undo takes it back, /retry asks again")
        else:
            self.view.aside("stopped before any text; /retry asks again")


def figures(usage: Usage, reason: str | None, seconds: float, first: float | None) -> str:
    """Put the figures of an answer into one line.

    Args:
        usage: figures of the API.
        reason: why it ended.
        seconds: seconds from the question to the end.
        first: seconds to the first text; None without any.
    """
    extra, tokens = usage.flexspec, usage.completion_tokens
    share = f" ({extra.accepted / extra.drafted:.0%})" if extra.drafted else ""
    by_lookup = f", {extra.looked_up} by lookup" if extra.looked_up else ""
    parts = [
        f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds if seconds > 0 else 0:.1f} a second",
        f"first text {'–' if first is None else f'{first:.2f} s'}",
        f"accepted {extra.accepted} of {extra.drafted}{share}{by_lookup}",
        f"{extra.worker_accepted} by the worker's draft" if extra.worker_accepted else "",
        f"{extra.provisional_confirmed} of {extra.provisional} written alone were right"
        if extra.provisional
        else "",
        f"{extra.rounds} rounds",
        f"{size(extra.bytes_up)} up, {size(extra.bytes_down)} down",
        ""
        if extra.energy_j is None
        else in_words(extra.energy_j, extra.energy_j_per_100, extra.energy_source),
        f"seed {'–' if extra.seed is None else extra.seed}",
    ]
    if reason == "length" and extra.default_limit is not None:
        parts.append(f"cut at the node's limit of {extra.default_limit:,} tokens; /max-tokens N sets another")
    elif reason == "length":
        parts.append("cut at the limit of tokens")
    return " · ".join(filter(None, parts))


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB"


class Command(NamedTuple):
    """A command: its argument in words, what it does, and what does it."""

    takes: str
    help: str
    run: Callable[[ChatSession, str], Awaitable[None]]


def check_model(name: str, known: list[str]) -> None:
    """Refuse a model that the API does not have.

    Raises:
        UsageError: naming those that it has.
    """
    if name not in known:
        raise UsageError(f"there is no model {name}", hint=f"there is {', '.join(known)}")


async def _model(session: ChatSession, name: str) -> None:
    known = await session.api.models()
    if name:
        check_model(name, known)
        session.options.model = name
        session.view.say(f"model: {name}")
        return
    current = session.options.model or session.version or (known[0] if len(known) == 1 else None)
    for model in known:
        session.view.say(f"{'*' if model == current else ' '} {model}")
    if current is None:
        session.view.say("the node's own is used; /model NAME takes another")
    elif current not in known:
        session.view.say(f"* {current} (gone)")


def _number(name: str) -> Command:
    number, setting = NUMBERS[name], NUMBERS[name].setting

    async def run(session: ChatSession, text: str) -> None:
        if text:
            setattr(session.options, name, None if text == NONE else number.read(name, text))
        value = getattr(session.options, name)
        shown = setting.default if value is None else f"{value}"
        if value is None and name == "seed" and session.seed is not None:
            shown += f"; the last one was {session.seed}"
        session.view.say(f"{name.replace('_', '-')}: {shown}")

    return Command(f"[N | {NONE}]", f"{setting.help}; none: {setting.default}", run)


async def _system(session: ChatSession, text: str) -> None:
    if text:
        session.options.system = None if text == NONE else text
    session.view.say(f"system: {session.options.system or NONE}")


async def _retry(session: ChatSession, _: str) -> None:
    question = session.take_back()
    session.view.aside(f"› {question}")
    await session.ask(question)


async def _undo(session: ChatSession, _: str) -> None:
    session.view.say(f"taken back: {session.take_back()}")


async def _clear(session: ChatSession, _: str) -> None:
    session.exchanges, session.unanswered = [], None
    session.view.say("the conversation begins anew; model, system and numbers stay")


async def _help(session: ChatSession, _: str) -> None:
    commands = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
    session.view.table([*commands, *KEYS])


async def _quit(_session: ChatSession, _: str) -> None:
    raise Quit("the user ends the chat")


COMMANDS = {
    "/model": Command("[NAME]", "the target versions that there are, or takes another", _model),
    **{f"/{name.replace('_', '-')}": _number(name) for name in NUMBERS},
    "/system": Command(f"[TEXT | {NONE}]", "what the conversation begins with", _system),
    "/retry": Command("", "asks the last question again, in place of its answer", _retry),
    "/undo": Command("", "takes the last question back, with its answer", _undo),
    "/clear": Command("", "begins a new conversation", _clear),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "ends the chat", _quit),
}
