"""All texts of a server: how many at a time, and one session for each idempotency key."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from edge_node.completion.completion import Completion, End, EndReason, IdempotencyKey
from edge_node.completion.options import SEED_BITS, CompletionOptions, Prompt
from edge_node.outbox.entries import Entry, NoRoom, OutboxError
from edge_node.outbox.journal import Bounds
from edge_node.outbox.outbox import ASKED, Outbox, Record
from flexspec_mq import waiting
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.errors import Cancelled, FlexSpecError, LinkError, TimeIsOver, WorkerError
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.settings import Setting
from schemas.messages import MOST_KEPT
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
        grace: seconds for texts to end when the server stops.
    """

    api_texts: Annotated[int, Setting(help="texts written at a time; beyond it 429", least=1)] = 64
    api_max_tokens: Annotated[
        int,
        Setting(
            help="tokens of an answer to a chat that names no limit; 0 is what the context leaves", least=0
        ),
    ] = 1024
    outbox: Annotated[
        bool,
        Setting(
            help="keep requests with an idempotency key and their answers on disk, through restarts and power cuts; "
            "whoever reads the file reads them (docs/security.md). Off, or without a name of the node that stays, "
            "they are kept in memory"
        ),
    ] = True
    outbox_texts: Annotated[int, Setting(help="requests that the outbox holds, finished or not", least=1)] = (
        512
    )
    outbox_mb: Annotated[float, Setting(help="megabytes of requests and answers in the outbox", above=0)] = (
        64.0
    )
    outbox_for: Annotated[
        float, Setting(help="seconds that finished answers stay in the outbox", unit="seconds", above=0)
    ] = 86_400.0
    outbox_age: Annotated[
        float,
        Setting(
            help="seconds that a request waits in the outbox, with nobody reading, until its user is asked",
            unit="seconds",
            above=0,
        ),
    ] = 3600.0
    max_readers: int = 16
    grace: float = waiting.GRACE

    @property
    def deliver(self) -> int:
        """Seconds for which the broker keeps an answer that is to be delivered: as long as the outbox would."""
        return min(round(self.outbox_for), MOST_KEPT)

    @property
    def bounds(self) -> Bounds:
        """Bounds of the outbox."""
        return Bounds(texts=self.outbox_texts, size=round(self.outbox_mb * 2**20), keep=self.outbox_for)


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


class TextDropped(Cancelled):
    """A text was dropped from the outbox while others read it."""


class KeyReused(FlexSpecError):
    """An idempotency key was used for another request."""


class CompletionStore:
    """Starts texts, and ends those that nobody wants.

    A text without a key is its readers': when the last one leaves it is cancelled. A text with a key is the node's: it
    is in the outbox before anybody is told of it, goes on without readers and through restarts, and its answer is kept.

    Args:
        generator: writes them.
        limits: bounds of what it takes on.
        metrics: told what happens.
        outbox: keeps what has a key.

    Attributes:
        outbox: requests with a key, and their answers.
        closed: whether it takes no more texts.
    """

    def __init__(
        self, generator: CompletionGenerator, limits: CompletionLimits, metrics: Metrics, outbox: Outbox
    ) -> None:
        self._generator = generator
        self._limits = limits
        self._metrics = metrics
        self.outbox = outbox
        self._active: dict[Completion, asyncio.Task[tuple[End, str]] | None] = {}  # None: only read
        self._keyed: dict[str, Completion] = {}  # those of the active ones that have a key
        self._again: set[Completion] = set()  # to wait for longer than their readers did
        self._admission = asyncio.Lock()  # requests with a key are taken one after the other
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
        """Texts that wait for the link, for a worker or for their turn, or whose users are asked."""
        waits = sum(text.waits is not None for text in self._active if text.end is None)
        return waits + self.outbox.counts.get("stale", 0)

    @asynccontextmanager
    async def reading(
        self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey | None
    ) -> AsyncIterator[Completion]:
        """A new text, or the one that has the same key, for as long as the block reads it.

        Raises:
            TooManyTexts: no room for another.
            KeyReused: the key was used for another request.
            OutboxError: the outbox or its disk is full, or cannot be written.
            Cancelled: the store is closed.
        """
        text = self._begin(prompt, options) if key is None else await self._asked(prompt, options, key)
        try:
            yield text
            if text.key is not None and text.settled and not self.closed:
                self.outbox.later(self.outbox.journal.set_read, text.id)
        finally:
            self._leave(text)

    async def go_on(self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey) -> None:
        """Write a text that the outbox has, with nobody reading it; it waits for a link and a worker for long.

        Raises:
            TooManyTexts: no room for another.
            OutboxError: the outbox cannot be written.
        """
        kept = self._limits.deliver if options.offline == "deliver" else 0
        patience = max(options.wait or 0.0, self._limits.outbox_age, kept)
        text = await self._admit(prompt, replace(options, wait=patience), key, readers=0)
        if text.settled and not text.readers:
            self._release(text)

    @property
    def goes_on_later(self) -> bool:
        """Whether texts with a key are left for the node's next start."""
        return self.closed and self.outbox.journal.path is not None

    def text(self, name: str) -> Completion | None:
        """The text with a key that has this id, while it is written or read."""
        return next((text for text in self._keyed.values() if text.id == name), None)

    async def drop(self, name: str) -> None:
        """Cancel a text by its id, and forget it."""
        async with self._admission:  # or one that is just being taken would be written all the same
            text = self.text(name)
        if text is not None and (task := self._active[text]) is not None:
            task.cancel()
            await asyncio.wait([task])
        await self.outbox.run(self.outbox.journal.forget, name)

    async def close(self) -> None:
        """Take no more; end those that are being written with an error that says why: texts with a key go on later."""
        self.closed = self._generator.closed = True
        for text in self._active:
            text.finish(End(None, error=_stopping()))
        tasks = [task for task in self._active.values() if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.grace)
        self._generator.close()
        await self.outbox.close()

    async def _asked(self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey) -> Completion:
        """The text of a key, for one more reader; that one may go away meanwhile."""
        admission = asyncio.create_task(self._admit(prompt, options, key, readers=1), name="admission")
        try:
            return await asyncio.shield(admission)
        except asyncio.CancelledError:
            admission.add_done_callback(self._asked_in_vain)
            raise

    def _asked_in_vain(self, admission: asyncio.Task[Completion]) -> None:
        if not admission.cancelled() and admission.exception() is None:
            self._leave(admission.result())

    async def _admit(
        self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey, *, readers: int
    ) -> Completion:
        async with self._admission:
            text = self._keyed.get(key.key)
            if text is None or (text.end is not None and not text.settled):
                text = await self._found(Completion(prompt, options, key), key)
            elif text.key != key:
                raise KeyReused("this idempotency key was used for another request")
            if text.readers >= self._limits.max_readers:
                raise self._too_many("too many requests with this idempotency key read its text")
            text.readers += readers
            return text

    async def _found(self, text: Completion, key: IdempotencyKey) -> Completion:
        """A text of a key that is neither written nor read: new, or as the outbox has it."""
        self._make_room()
        outbox, journal = self.outbox, self.outbox.journal
        outbox.write()
        entry = await self._kept(text.options, key)
        text.id, text.created = entry.id, int(entry.accepted)
        if entry.unfinished:
            if entry.id not in outbox.fresh:
                entry = await outbox.run(journal.unpark, entry.id)
            outbox.fresh.discard(entry.id)
            self._write(text, Record(outbox, entry, await outbox.run(journal.committed, entry.id)))
        else:
            text.recall(await outbox.run(journal.answer, entry.id))
            self._active[text] = None
        self._keyed[key.key] = text
        return text

    async def keep(self, options: CompletionOptions, key: IdempotencyKey) -> str:
        """Have the outbox hold a request whose turn comes later; the id of its text, unless that is over.

        Raises:
            KeyReused: the key was used for another request.
            OutboxError: the outbox is full, or cannot be written.
        """
        async with self._admission:
            entry = await self._kept(options, key)
            return entry.id if entry.unfinished else ""

    async def _kept(self, options: CompletionOptions, key: IdempotencyKey) -> Entry:
        """A request as the outbox has it, from now on or already."""
        outbox, journal = self.outbox, self.outbox.journal
        entry = await outbox.run(journal.under, key.key)
        if entry is None or entry.state == "failed":
            entry = _entry(options, key, journal.now())
            await outbox.run(journal.accept, entry)
        elif entry.digest != key.digest:
            raise KeyReused("this idempotency key was used for another request")
        elif entry.state == "stale":
            entry = await outbox.run(journal.unpark, entry.id)
        else:
            return entry
        outbox.fresh.add(entry.id)
        return entry

    def _begin(self, prompt: Prompt, options: CompletionOptions) -> Completion:
        self._make_room()
        text = Completion(prompt, options)
        text.readers = 1
        self._write(text, None)
        return text

    def _write(self, text: Completion, record: Record | None) -> None:
        if text.options.seed is None:
            seed = secrets.randbits(SEED_BITS) if text.key is None else text.key.seed
            text.options = replace(text.options, seed=seed)
        self._metrics.started(text)
        task = self._active[text] = asyncio.create_task(self._outcome(text, record), name=f"text {text.id}")
        task.add_done_callback(partial(self._ended, text))
        if record is not None:
            aged = asyncio.get_running_loop().call_later(self._limits.outbox_age, self._aged, text)
            task.add_done_callback(lambda _task: aged.cancel())  # or it would hold the text for as long

    def _make_room(self) -> None:
        if self.closed:
            raise _stopping()
        if len(self._active) >= self._limits.api_texts:
            raise self._too_many(f"{len(self._active)} texts are being written or read, as many as may be")

    def _too_many(self, message: str) -> TooManyTexts:
        # A place becomes free about every pace / limit seconds.
        wait = min(30, max(1, math.ceil(self._pace / self._limits.api_texts)))
        return TooManyTexts(message, wait)

    async def _outcome(self, text: Completion, record: Record | None) -> tuple[End, str]:
        """Write a text; returns its end, and the outcome for the metrics."""
        try:
            end = await self._written(text, record)
            outcome: str = end.reason or "failed"
        except FlexSpecError as error:
            end, outcome = End(None, error=error), "deadline" if isinstance(error, TimeIsOver) else "failed"
        except Exception:  # noqa: BLE001  the top of a text's task; logged with its traceback
            _log.exception("text %s failed", text.id)
            end, outcome = End(None, error=FlexSpecError("the edge node failed; its log says how")), "failed"
        if record is not None:
            await self._keep(text, end, new=record.life == 0 or record.path == ASKED)
        return end, outcome

    async def _keep(self, text: Completion, end: End, *, new: bool) -> None:
        """Have the outbox know of an end before anybody else does."""
        journal, error, age = self.outbox.journal, end.error, time.monotonic() - text.began
        unreached = end.reason == "provisional" or isinstance(error, LinkError | WorkerError)
        call: Callable[[], object]
        if error is None and not unreached:
            call = partial(journal.finish, text.id, text.answer(end))
        elif self.closed or self._generator.node.failure is not None:
            return  # it goes on when the node is started again
        elif text.readers and (new or not unreached):  # they are told, and may ask again
            call = partial(journal.forget, text.id)
        elif error is not None and not unreached:
            call = partial(journal.finish, text.id, b"", error.message)
        elif max(text.options.wait or 0.0, age) < self._limits.outbox_age:
            self._again.add(text)  # the patience of its readers is over, and not its own
            return
        else:
            self.outbox.write()
            call = partial(
                journal.park, text.id, "nobody could be reached" if error is None else error.message
            )
        await self._noted(text, call)

    async def _noted(self, text: Completion, call: Callable[[], object]) -> None:
        """Have the outbox note an end; where its disk is full and nobody reads the text, as soon as there is room."""
        told = False
        while True:
            try:
                await self.outbox.run(call)
            except OutboxError as lost:
                if not told:
                    _log.error("text %s: its end is not kept: %s", text.id, lost)
                if text.readers or not isinstance(lost, NoRoom):
                    return
                told = True
                await asyncio.sleep(waiting.OUTBOX_ROOM)
            else:
                return

    async def _written(self, text: Completion, record: Record | None) -> End:
        async with self._generator.writing(text.prompt, text.options, text.wait, record) as writing:
            last, tokens = text.began, writing.tokens
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
            outcome = "stopped" if self.closed else "cancelled"
            why = Cancelled("whoever asked for it is gone")
            if text.readers:
                why = _stopping() if self.closed else TextDropped("the text was dropped from the outbox")
            end = End(None, error=why)
        else:
            end, outcome = task.result()
        text.finish(end)
        self._over.append(text.view())
        self._metrics.ended(text, outcome)
        self._pace += (time.monotonic() - text.began - self._pace) / 8
        if not text.readers:
            self._release(text)
        if text in self._again and text.key is not None:
            self._again.discard(text)
            self.outbox.go_on(text.id, text.key.path)

    def _leave(self, text: Completion) -> None:
        """A reader leaves a text."""
        text.readers -= 1
        if text.readers:
            return
        task = self._active[text]
        if task is None or task.done():
            self._release(text)
        elif text.key is None:
            task.cancel()
        elif time.monotonic() - text.began > self._limits.outbox_age:
            self._aged(text)

    def _aged(self, text: Completion) -> None:
        """Have a text that waits for so long, and that nobody reads, wait for its user."""
        task, promised = self._active.get(text), text.figures is not None and text.figures().delivers
        if task is not None and not task.done() and not (text.readers or text.size or promised):
            task.cancel()
            self.outbox.write()
            self.outbox.later(self.outbox.journal.park, text.id, "it waited for too long")

    def _release(self, text: Completion) -> None:
        self._active.pop(text, None)
        if text.key is not None and self._keyed.get(text.key.key) is text:
            del self._keyed[text.key.key]


def _entry(options: CompletionOptions, key: IdempotencyKey, now: float) -> Entry:
    return Entry(
        id=secrets.token_hex(12),
        key=key.key,
        digest=key.digest,
        path=key.path,
        body=key.body,
        client=key.client,
        choice=key.choice,
        mode=options.offline or "hold",
        accepted=now,
    )


def _stopping() -> Cancelled:
    return Cancelled("the edge node is stopping")
