"""A chat: questions become answers that are shown as they come, and lines that begin with a slash are commands."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from flexspec_mq.chat.api import AGAIN, ApiClient, Told
from flexspec_mq.chat.settings import NUMBERS
from flexspec_mq.energy.model import in_words
from flexspec_mq.errors import LinkDown, UsageError

if TYPE_CHECKING:
    from flexspec_mq.chat.answer import AnswerView
    from flexspec_mq.chat.view import View

NONE = "none"
"""The word that unsets an option."""
KEYS = (
    ("Alt-Enter, or \\ Enter", "a line break"),
    ("Ctrl-C", "stops an answer, throws a line away, or ends the chat at an empty one"),
    ("Ctrl-D, or /quit", "ends the chat"),
    ("//…", "a line that begins with one slash"),
)


class ChatSession:
    """A conversation over an API, and where it is shown.

    Attributes:
        options: fields of the next request, and `system`, what the conversation begins with.
        exchanges: questions and answers, the oldest first.
        unanswered: the last question, if it failed; the conversation stands as it was before it.
        version: target version that wrote the last answer; None before.
        seed: seed of the last answer; None before.
    """

    def __init__(self, api: ApiClient, options: dict[str, Any], view: View) -> None:
        self.api = api
        self.options = options
        self.view = view
        self.exchanges: list[tuple[str, str]] = []
        self.unanswered: str | None = None
        self.version: str | None = None
        self.seed: int | None = None
        self._asked: tuple[dict[str, Any], str] | None = None  # newest request and its key, until it is over

    async def take(self, line: str) -> None:
        """Take a turn of the user: a command, or a question.

        Raises:
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
        """Ask, show the answer as it comes, then what it took.

        Raises:
            FlexSpecError: there is no answer; the question is taken back.
        """
        self.unanswered, body = question, self.body(question)
        # One key for all attempts: the node starts one session at most, however often the connection breaks. A question
        # that failed goes on under its key as well, where it is asked again as it was.
        if self._asked is None or self._asked[0] != body:
            self._asked = body, uuid.uuid4().hex
        told = Told()
        try:
            with self.view.answer() as shown:
                await self._follow(self._asked, shown, told)
        except asyncio.CancelledError:
            self._asked = None
            if told.text.strip():  # it was read
                self._answered(question, told.text)
                self.view.aside("stopped; what was written stays, /undo takes it back, /retry asks again")
            else:
                self.view.aside("stopped before any text; /retry asks again")
            raise
        self._asked = None
        if told.reason == "provisional":
            raise LinkDown("nobody could be reached: this is a draft that nobody has verified", hint=AGAIN)
        self._answered(question, told.text)
        self.view.aside(figures(told))

    async def _follow(self, asked: tuple[dict[str, Any], str], shown: AnswerView, told: Told) -> None:
        """Show an answer as it comes."""

        def note(words: object) -> None:
            shown.note(f"{words} · Ctrl-C stops")

        note("waiting for the first text")
        async with aclosing(self.api.answer(*asked, note)) as chunks:
            async for chunk in chunks:
                if text := told.take(chunk):
                    shown.note("")
                    shown.text(text)
                self.version, self.seed = told.version or self.version, told.usage.flexspec.seed
                if chunk.flexspec and chunk.flexspec.waiting:
                    note(chunk.flexspec.waiting)
                shown.unverified(told.unverified)

    def body(self, question: str) -> dict[str, Any]:
        """The request for the answer to a question, with all that was said before."""
        options = dict(self.options)
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


def figures(told: Told) -> str:
    """Figures of an answer in one line."""
    extra, tokens, seconds = told.usage.flexspec, told.usage.completion_tokens, told.seconds
    share = f" ({extra.accepted / extra.drafted:.0%})" if extra.drafted else ""
    by_lookup = f", {extra.looked_up} by lookup" if extra.looked_up else ""
    alone = f"{extra.provisional_confirmed} of {extra.provisional} written alone were right"
    limit = "the limit of tokens"
    if extra.default_limit is not None:
        limit = f"the node's limit of {extra.default_limit:,} tokens; /max-tokens N sets another"
    parts = [
        f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds if seconds > 0 else 0:.1f} a second",
        f"first text {'–' if told.first is None else f'{told.first:.2f} s'}",
        f"accepted {extra.accepted} of {extra.drafted}{share}{by_lookup}",
        extra.worker_accepted and f"{extra.worker_accepted} by the worker's draft",
        extra.provisional and alone,
        f"{extra.rounds} rounds",
        f"{size(extra.bytes_up)} up, {size(extra.bytes_down)} down",
        extra.energy_j is not None and in_words(extra.energy_j, extra.energy_j_per_100, extra.energy_source),
        f"seed {'–' if extra.seed is None else extra.seed}",
        told.reason == "length" and f"cut at {limit}",
    ]
    return " · ".join(part for part in parts if part)


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
        session.options["model"] = name
        session.view.say(f"model: {name}")
        return
    current = session.options.get("model") or session.version or (known[0] if len(known) == 1 else None)
    for model in known:
        session.view.say(f"{'*' if model == current else ' '} {model}")
    if current is None:
        session.view.say("the node's own is used; /model NAME takes another")
    elif current not in known:
        session.view.say(f"* {current} (gone)")


def _number(name: str) -> Command:
    number = NUMBERS[name]

    async def run(session: ChatSession, text: str) -> None:
        if text == NONE:
            session.options.pop(name, None)
        elif text:
            session.options[name] = number.read(name, text)
        value = session.options.get(name)
        shown = number.default if value is None else f"{value}"
        if value is None and name == "seed" and session.seed is not None:
            shown += f"; the last one was {session.seed}"
        session.view.say(f"{name.replace('_', '-')}: {shown}")

    return Command(f"[N | {NONE}]", f"{number.help}; none: {number.default}", run)


async def _system(session: ChatSession, text: str) -> None:
    if text == NONE:
        session.options.pop("system", None)
    elif text:
        session.options["system"] = text
    session.view.say(f"system: {session.options.get('system', NONE)}")


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


COMMANDS = {
    "/model": Command("[NAME]", "the target versions that there are, or takes another", _model),
    **{f"/{name.replace('_', '-')}": _number(name) for name in NUMBERS},
    "/system": Command(f"[TEXT | {NONE}]", "what the conversation begins with", _system),
    "/retry": Command("", "asks the last question again, in place of its answer", _retry),
    "/undo": Command("", "takes the last question back, with its answer", _undo),
    "/clear": Command("", "begins a new conversation", _clear),
    "/help": Command("", "this list", _help),
}
