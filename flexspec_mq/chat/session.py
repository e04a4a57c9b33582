"""A chat: questions become answers that are shown as they come; what fails is taken back."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING

from flexspec_mq.chat.figures import AnswerFigures, Totals
from flexspec_mq.chat.wire import content, pieces
from flexspec_mq.errors import FlexSpecError, UsageError

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
