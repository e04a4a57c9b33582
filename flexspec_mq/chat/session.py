"""A chat: questions become answers that are shown as they come; what fails is taken back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from flexspec_mq.chat.wire import content, pieces
from flexspec_mq.energy.model import in_words
from flexspec_mq.errors import FlexSpecError, UsageError
from schemas.openai import FlexspecUsage, Usage

if TYPE_CHECKING:
    from flexspec_mq.chat.api import Api
    from flexspec_mq.chat.conversation import Conversation
    from flexspec_mq.chat.view import View
    from flexspec_mq.terminal.answer import Answer


class ChatSession:
    """A conversation over an API, and where it is shown.

    Attributes:
        totals: figures of all answers.
        version: target version that wrote the last answer; None before.
        seed: seed of the last answer; None before.
    """

    def __init__(self, api: Api, conversation: Conversation, view: View) -> None:
        self.api = api
        self.conversation = conversation
        self.view = view
        self.totals = Totals()
        self.version: str | None = None
        self.seed: int | None = None

    async def ask(self, question: str) -> None:
        """Ask, show the answer, then what it took.

        Raises:
            FlexSpecError: there is no answer; the question is taken back.
        """
        if not question.strip():
            raise UsageError("the question is empty", hint="say what to write about")
        took, parts = AnswerFigures(), list[str]()
        try:
            with self.view.answer() as shown:
                await self._follow(question, took, parts, shown)
        except asyncio.CancelledError:
            self._stopped(question, took, "".join(parts))
            raise
        except FlexSpecError:
            self.totals.failed += 1
            self.conversation.unanswered = question
            raise
        took.seconds = time.monotonic() - took.began
        self.conversation.answered(question, "".join(parts))
        self.totals.took.append(took)
        if took.usage is not None:
            self.seed = took.usage.flexspec.seed
            self.version = took.usage.flexspec.version or self.version
        self.view.aside(took.line())

    async def _follow(self, question: str, took: AnswerFigures, parts: list[str], shown: Answer) -> None:
        shown.note("waiting for the first text · Ctrl-C stops")
        # One key for all attempts: the node starts one session at most, however often the connection breaks.
        answer = self.api.answer(
            self.conversation.body(question),
            uuid.uuid4().hex,
            lambda waiting: shown.note(f"{waiting} · Ctrl-C stops"),
        )
        async with aclosing(answer) as chunks:
            async for chunk in chunks:
                if text := content(chunk):
                    if took.first is None:
                        took.first = time.monotonic() - took.began
                    parts.append(text)
                    shown.note("")
                    shown.text(pieces(chunk))
                took.usage = chunk.usage or took.usage
                for choice in chunk.choices:
                    took.reason = choice.finish_reason or took.reason
                self.version = chunk.model or self.version

    def _stopped(self, question: str, took: AnswerFigures, text: str) -> None:
        """Keep what was written until then, since it was read; take a question without any text back."""
        took.seconds, took.usage = time.monotonic() - took.began, None
        self.totals.took.append(took)
        if text.strip():
            self.conversation.answered(question, text, whole=False)
            self.view.aside("stopped; what was written stays, /undo takes it back, /retry asks again")
        else:
            self.conversation.unanswered = question
            self.view.aside("stopped before any text; /retry asks again")


@dataclass(slots=True)
class AnswerFigures:
    """An answer, as the client sees it come.

    Attributes:
        began: when it was asked for.
        seconds: seconds from the question to the end.
        first: seconds to the first text; None before any.
        usage: figures of the API; None if the answer was stopped.
        reason: why it ended; None if it was stopped.
    """

    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    first: float | None = None
    usage: Usage | None = None
    reason: str | None = None

    def line(self) -> str:
        """The figures in one line."""
        first = f"first text {'–' if self.first is None else f'{self.first:.2f} s'}"
        if self.usage is None:
            return f"stopped after {self.seconds:.1f} s · {first}"
        told, tokens = self.usage.flexspec, self.usage.completion_tokens
        by_lookup = f", {told.looked_up} by lookup" if told.looked_up else ""
        parts = [
            f"{tokens} tokens in {self.seconds:.1f} s, {_rate(tokens, self.seconds)}",
            first,
            f"accepted {told.accepted} of {told.drafted}{_share(told.accepted, told.drafted)}{by_lookup}",
            f"{told.worker_accepted} by the worker's draft" if told.worker_accepted else "",
            f"{told.rounds} rounds",
            f"{size(told.bytes_up)} up, {size(told.bytes_down)} down",
            ""
            if told.energy_j is None
            else in_words(told.energy_j, told.energy_j_per_100, told.energy_source),
            f"seed {'–' if told.seed is None else told.seed}",
        ]
        if self.reason == "length" and told.default_limit is not None:
            parts.append(
                f"cut at the node's limit of {told.default_limit:,} tokens; /max-tokens N sets another"
            )
        elif self.reason == "length":
            parts.append("cut at the limit of tokens")
        return " · ".join(filter(None, parts))


@dataclass(slots=True)
class Totals:
    """All answers of a conversation.

    Attributes:
        took: figures of each that was answered or stopped.
        failed: questions without an answer.
    """

    took: list[AnswerFigures] = field(default_factory=list)
    failed: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """Names and values."""
        usages = [took.usage for took in self.took if took.usage is not None]
        told = [usage.flexspec for usage in usages]
        firsts = [took.first for took in self.took if took.first is not None]
        seconds = sum(took.seconds for took in self.took if took.usage is not None)
        tokens = sum(usage.completion_tokens for usage in usages)
        prompts = sum(usage.prompt_tokens for usage in usages)
        drafted, accepted, rounds = _sum(told, "drafted"), _sum(told, "accepted"), _sum(told, "rounds")
        stopped = len(self.took) - len(usages)
        joules = [one.energy_j for one in told if one.energy_j is not None]
        sources = _names(one.energy_source for one in told if one.energy_j is not None)
        looked_up = _sum(told, "looked_up")
        rows = [
            ("answers", f"{len(usages)}, and {stopped} stopped, {self.failed} failed"),
            ("tokens", f"{tokens} written, {_rate(tokens, seconds)}; prompts {prompts}"),
            ("acceptance", f"{accepted} of {drafted} drafted tokens{_share(accepted, drafted)}"),
            ("rounds", f"{rounds}, {tokens / rounds if rounds else 0:.2f} tokens each"),
            ("MQTT payload", f"{size(_sum(told, 'bytes_up'))} up, {size(_sum(told, 'bytes_down'))} down"),
            ("energy", f"{sum(joules):.1f} J ({sources})" if joules else ""),
            ("by lookup", f"{looked_up} of the accepted tokens" if looked_up else ""),
            (
                "first text after",
                f"{median(firsts):.2f} s in the middle, {max(firsts):.2f} s at most" if firsts else "",
            ),
            ("written by", _names(one.version for one in told)),
            ("exactness", _names(one.exactness for one in told)),
            ("not counted", "tokens, bytes and energy of answers that were stopped" if stopped else ""),
        ]
        return [(name, value) for name, value in rows if value]


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB"


def _sum(told: list[FlexspecUsage], name: str) -> int:
    return sum(getattr(usage, name) for usage in told)


def _names(words: Iterable[str]) -> str:
    return ", ".join(sorted({word for word in words if word}))


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds if seconds > 0 else 0:.1f} a second"


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""
