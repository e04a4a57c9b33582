"""All texts of a server: how many at a time, and one session for each idempotency key."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from edge_node.completion.completion import Completion, End, EndReason, IdempotencyKey
from edge_node.completion.options import SEED_BITS, CompletionOptions, Prompt
from flexspec_mq import waiting
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import Cancelled, FlexSpecError, TimeIsOver
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.settings import Setting
from schemas.node import TextFigures, TextView

if TYPE_CHECKING:
    from edge_node.completion.generator import CompletionGenerator
    from edge_node.completion.metrics import Metrics
    from flexspec_mq.models.load import LoadedText

_REASONS: dict[FinishReason, EndReason] = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.PROVISIONAL: "provisional",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionLimits:
    """Bounds on the texts of one server. Times are seconds.

    Attributes:
        api_texts: texts that are written or read at a time.
        api_max_tokens: most tokens of a text whose request names no limit; 0 is what the context leaves.
        max_readers: readers of one text at a time, by the same idempotency key.
        keep_for: seconds that a complete text stays under its idempotency key.
        keep_texts: complete texts kept at most.
        keep_bytes: characters of them, taken together, at most.
        grace: seconds for texts to end when the server stops.
    """

    api_texts: Annotated[int, Setting(help="texts written at a time; beyond it 429", least=1)] = 64
    api_max_tokens: Annotated[
        int,
        Setting(
            help="tokens of an answer to a chat that names no limit; 0 is what the context leaves", least=0
        ),
    ] = 1024
    max_readers: int = 16
    keep_for: float = 600.0
    keep_texts: int = 256
    keep_bytes: int = 16 * 2**20
    grace: float = waiting.GRACE


SHOWN = 16
"""Texts that are over and are still told of."""


class TooManyTexts(FlexSpecError):
    """There is no room for another text or reader.

    Attributes:
        retry_after: seconds after which there may be.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyReused(FlexSpecError):
    """An idempotency key was used for another request."""


class CompletionStore:
    """Starts texts, and ends those that nobody reads.

    Args:
        generator: writes them.
        limits: bounds of what it takes on.
        metrics: told what happens.

    Attributes:
        closed: whether it takes no more texts.
    """

    def __init__(self, generator: CompletionGenerator, limits: CompletionLimits, metrics: Metrics) -> None:
        self._generator = generator
        self._limits = limits
        self._metrics = metrics
        self._active: dict[Completion, asyncio.Task[tuple[End, str]] | None] = {}  # None: only read
        self._writing: dict[str, Completion] = {}
        self._complete = ExpiringMap[str, Completion](
            most=limits.keep_texts,
            life=limits.keep_for,
            most_weight=limits.keep_bytes,
            weigh=lambda text: text.size,
        )
        self._pace = 1.0  # seconds that a text takes, smoothed
        self._stood: dict[str, str] = {}  # the state of each limit that was logged last
        self._over: deque[TextView] = deque(maxlen=SHOWN)
        self.closed = False

    def __len__(self) -> int:
        """Texts being written or read."""
        return len(self._active)

    @property
    def model(self) -> LoadedText:
        """The node's own; whose tokenizer is the targets', unless they tell of others."""
        return self._generator.model

    def views(self) -> list[TextView]:
        """Texts that ended lately, and those that are being written."""
        return [*self._over, *(text.view() for text in self._active if text.end is None)]

    @property
    def waiting(self) -> int:
        """Texts that wait for the link, for a worker or for their turn."""
        return sum(text.waits is not None for text in self._active if text.end is None)

    @property
    def kept(self) -> int:
        """Texts under an idempotency key."""
        return len(self._writing) + len(self._complete)

    @contextmanager
    def reading(
        self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey | None
    ) -> Iterator[Completion]:
        """A new text, or the one that has the same key, for as long as the block reads it.

        When the last reader leaves a text that is not complete, its session is cancelled and its key is free.

        Raises:
            TooManyTexts: no room for another.
            KeyReused: the key was used for another request.
            Cancelled: the store is closed.
        """
        if self.closed:
            raise _stopping()
        self._complete.expire(time.monotonic())
        text = self._known(key) or self._start(prompt, options, key)
        text.readers += 1
        try:
            yield text
        finally:
            text.readers -= 1
            if not text.readers:
                self._abandoned(text)

    async def close(self) -> None:
        """Take no more; end those that are being written with an error that says why."""
        self.closed = True
        for text in self._active:
            text.finish(End(None, error=_stopping()))
        tasks = [task for task in self._active.values() if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.grace)
        self._generator.close()

    def _known(self, key: IdempotencyKey | None) -> Completion | None:
        if key is None:
            return None
        text = self._writing.get(key.key) or self._complete.get(key.key, time.monotonic())
        if text is None:
            return None
        if text.key != key:
            raise KeyReused("this idempotency key was used for another request")
        if text.readers >= self._limits.max_readers:
            raise self._too_many("too many requests with this idempotency key read its text")
        if text not in self._active:
            self._make_room()
            self._active[text] = None
        return text

    def _start(self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey | None) -> Completion:
        self._make_room()
        if options.seed is None:
            options = replace(options, seed=secrets.randbits(SEED_BITS) if key is None else key.seed)
        text = Completion(prompt, options, key)
        self._metrics.started(text)
        task = self._active[text] = asyncio.create_task(self._outcome(text), name=f"text {text.id}")
        task.add_done_callback(partial(self._ended, text))
        if key is not None:
            self._writing[key.key] = text
        return text

    def _make_room(self) -> None:
        if len(self._active) >= self._limits.api_texts:
            raise self._too_many(f"{len(self._active)} texts are being written or read, as many as may be")

    def _too_many(self, message: str) -> TooManyTexts:
        # A place becomes free about every pace / limit seconds.
        wait = min(30, max(1, math.ceil(self._pace / self._limits.api_texts)))
        return TooManyTexts(message, wait)

    async def _outcome(self, text: Completion) -> tuple[End, str]:
        """Write a text; returns its end, and the outcome for the metrics."""
        try:
            end = await self._write(text)
        except FlexSpecError as error:
            return End(None, error=error), "deadline" if isinstance(error, TimeIsOver) else "failed"
        except Exception:  # noqa: BLE001  the top of a text's task; logged with its traceback
            _log.exception("text %s failed", text.id)
            return End(None, error=FlexSpecError("the edge node failed; its log says how")), "failed"
        return end, end.reason or "failed"

    async def _write(self, text: Completion) -> End:
        last, tokens = text.began, 0
        async with self._generator.writing(text.prompt, text.options, text.wait) as writing:
            _log.info("text %s is session %d", text.id, writing.generation.session)
            text.figures = writing.figures
            if writing.span is not None:
                writing.span.note({"gen_ai.response.id": text.id})
            self._metrics.began(text, writing)
            try:
                async for pieces in writing.pieces():
                    now, seen = time.monotonic(), writing.tokens
                    if seen > tokens:
                        self._metrics.committed(writing, seen - tokens, now - last, first=not tokens)
                        last, tokens = now, seen
                    text.version, text.form = writing.version, writing.form
                    if isinstance(pieces, str):
                        text.unverified(pieces)
                    else:
                        text.add(pieces)
            finally:
                figures = writing.figures()
                text.figures = lambda: figures
                self._took(text, figures)
            return End(_REASONS[writing.finish.reason], figures)

    def _took(self, text: Completion, figures: TextFigures) -> None:
        """Count a session that is over, and log each limit that stands otherwise than it was last said to."""
        self._metrics.took(text, figures)
        for limit in figures.limits:
            if limit.state not in ("unknown", self._stood.get(limit.name, "kept")):
                self._stood[limit.name] = limit.state
                _log.warning("%s", limit_in_words(limit))

    def _ended(self, text: Completion, task: asyncio.Task[tuple[End, str]]) -> None:
        """A text's task is over, or was cancelled, maybe before it began."""
        if task.cancelled():
            why, outcome = _stopping(), "stopped"
            if not self.closed:
                why, outcome = Cancelled("whoever asked for it is gone"), "cancelled"
            end = End(None, error=why)
        else:
            end, outcome = task.result()
        text.finish(end)
        self._over.append(text.view())
        self._metrics.ended(text, outcome)
        now = time.monotonic()
        self._pace += (now - text.began - self._pace) / 8
        key = self._freed_key(text)  # asking again may succeed, unless it is complete
        if key is not None and text.complete:
            self._complete.put(key, text, now)
        if not text.readers:
            self._release(text)

    def _freed_key(self, text: Completion) -> str | None:
        """Take a text that is not being written any more from under its key; the key, if it is still there."""
        if text.key is None or self._writing.get(text.key.key) is not text:
            return None
        del self._writing[text.key.key]
        return text.key.key

    def _abandoned(self, text: Completion) -> None:
        task = self._active[text]
        if task is None or task.done():
            self._release(text)
            return
        self._freed_key(text)
        task.cancel()

    def _release(self, text: Completion) -> None:
        self._active.pop(text, None)
        text.settle()


def _stopping() -> Cancelled:
    return Cancelled("the edge node is stopping")
