"""One chat: questions become answers that are shown as they come; what fails is taken back."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING

from flexspec_mq.chat.figures import Clock, Totals, line
from flexspec_mq.chat.wire import content, pieces, reason
from flexspec_mq.errors import FlexSpecError, UsageError

if TYPE_CHECKING:
    from flexspec_mq.chat.api import Api
    from flexspec_mq.chat.conversation import Conversation
    from flexspec_mq.chat.view import View
    from flexspec_mq.daemon.retry import Waiting
    from flexspec_mq.terminal.answer import Answer
    from schemas.openai import Usage

WAITING = "waiting for the first text · Ctrl-C stops"


class Session:
    """A conversation over an API, and where it is shown.

    Attributes:
        totals: of all answers.
        version: that wrote the last answer; None before.
        seed: of the last answer; None before.
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
        answer = _Answer()
        try:
            with self.view.answer() as shown:
                await self._follow(question, answer, shown)
        except asyncio.CancelledError:
            self._stopped(question, answer)
            raise
        except FlexSpecError:
            self.totals.failed += 1
            self.conversation.failed(question)
            raise
        took = answer.clock.took(answer.usage, answer.reason)
        self.conversation.answered(question, answer.text)
        self.totals.took.append(took)
        if answer.usage is not None:
            self.seed = answer.usage.flexspec.seed
            self.version = answer.usage.flexspec.version or self.version
        self.view.aside(line(took))

    async def _follow(self, question: str, answer: _Answer, shown: Answer) -> None:
        def wait(waiting: Waiting) -> None:
            shown.note(f"{waiting} · Ctrl-C stops")

        shown.note(WAITING)
        # One key for all attempts: the node starts one session at most, however often the connection breaks.
        key = uuid.uuid4().hex
        async with aclosing(self.api.answer(self.conversation.body(question), key, wait)) as chunks:
            async for chunk in chunks:
                if text := content(chunk):
                    answer.clock.text()
                    answer.text += text
                    shown.note("")
                    shown.text(pieces(chunk))
                answer.usage = chunk.usage or answer.usage
                answer.reason = reason(chunk) or answer.reason
                self.version = chunk.model or self.version

    def _stopped(self, question: str, answer: _Answer) -> None:
        """What was written until then stays, since it was read; a question without any text is taken back."""
        self.totals.took.append(answer.clock.took(None, None))
        if answer.text.strip():
            self.conversation.answered(question, answer.text, whole=False)
            self.view.aside("stopped; what was written stays, /undo takes it back, /retry asks again")
        else:
            self.conversation.failed(question)
            self.view.aside("stopped before any text; /retry asks again")


class _Answer:
    """What is known of an answer while it comes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.text = ""
        self.usage: Usage | None = None
        self.reason: str | None = None
