"""The texts of a node: how many at a time, one for each idempotency key, and what the journal has of them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from msgspec.structs import replace

from edge_node.outbox.entries import Entry, NoRoom, OutboxError
from edge_node.outbox.journal import Bounds
from edge_node.outbox.outbox import ASKED, Outbox, TextRecord
from edge_node.text.machine import End, Text, TextEffect, stopping
from edge_node.text.spec import SEED_BITS, IdempotencyKey, TextRequest, TextSpec, UnknownRequest, unpack
from edge_node.text.voice import Speaking, write_locally
from flexspec_mq import entropy, waiting
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError, LinkError, TimeIsOver, WorkerError
from flexspec_mq.settings import Setting
from schemas.messages import MOST_KEPT
from schemas.node import TextFigures, TextView
from schemas.openai import LOCAL_ONLY

if TYPE_CHECKING:
    from edge_node.text.generator import CompletionGenerator
    from edge_node.text.metrics import Metrics
    from edge_node.text.service import Wait
    from edge_node.text.voice import Voice
    from flexspec_mq.models.load import LoadedText

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBounds:
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
    grace: float = waiting.CONNECT

    @property
    def deliver(self) -> int:
        """Seconds for which the broker keeps an answer that is to be delivered: as long as the outbox would."""
        return min(round(self.outbox_for), MOST_KEPT)

    @property
    def bounds(self) -> Bounds:
        """Bounds of the outbox."""
        return Bounds(texts=self.outbox_texts, size=round(self.outbox_mb * 2**20), retention=self.outbox_for)


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


class Texts:
    """The texts of a node: how many at a time, one for each idempotency key, and the journal's part in them.

    Args:
        generator: writes them.
        limits: bounds of what it takes on.
        metrics: told what happens.
        outbox: persists what has a key.

    Attributes:
        outbox: requests with a key, and their answers.
        closed: whether it takes no more texts.
    """

    def __init__(
        self, generator: CompletionGenerator, limits: TextBounds, metrics: Metrics, outbox: Outbox
    ) -> None:
        self._generator = generator
        self._limits = limits
        self._metrics = metrics
        self.outbox = outbox
        self._active: dict[Text, asyncio.Task[None] | None] = {}  # None: only read
        self._keyed: dict[str, Text] = {}  # those of the active ones that have a key
        self._admission = asyncio.Lock()  # requests with a key are taken one after the other
        self._pace = 1.0  # seconds that a text takes, smoothed
        self._stood: dict[str, str] = {}  # the state of each limit that was logged last
        self._over: deque[TextView] = deque(maxlen=SHOWN)
        self.closed = False

    def __len__(self) -> int:
        """Texts being written or read."""
        return sum(text.end is None or text.readers > 0 for text in self._active)

    @property
    def model(self) -> LoadedText | None:
        """The node's own; whose tokenizer is the targets', unless they tell of others."""
        return self._generator.model

    @property
    def voice(self) -> Voice | None:
        """The model of the device's own that writes by itself."""
        return self._generator.voice

    def views(self) -> list[TextView]:
        """Texts that ended lately, and those that are being written."""
        return [*self._over, *(text.view() for text in self._active if text.end is None)]

    @property
    def waiting(self) -> int:
        """Texts that wait for the link, for a worker or for their turn, or whose users are asked."""
        waits = sum(text.waits is not None for text in self._active if text.end is None)
        return waits + self.outbox.counts.get("stale", 0)

    @property
    def goes_on_later(self) -> bool:
        """Whether texts with a key are left for the node's next start."""
        return self.closed and self.outbox.journal.path is not None

    def text(self, name: str) -> Text | None:
        """The text with a key that has this id, while it is written or read."""
        return next((text for text in self._keyed.values() if text.id == name), None)

    @asynccontextmanager
    async def reading(self, wanted: TextRequest, key: IdempotencyKey | None) -> AsyncIterator[Text]:
        """A new text, or the one that has the same key, for as long as the block reads it.

        Raises:
            TooManyTexts: no room for another.
            KeyReused: the key was used for another request.
            OutboxError: the outbox or its disk is full, or cannot be written.
            Cancelled: the node ends.
        """
        text = self._begin(wanted.spec) if key is None else await self._asked(wanted, key)
        try:
            yield text
            if not self.closed:
                self._perform(text, text.was_read())
        finally:
            self._leave(text)

    async def run(self) -> None:
        """Write what is left in the outbox, in its order, and delete what is too old, until cancelled."""
        async with running(self._sweep(), "sweep"):
            while True:
                name = await self.outbox.left.get()
                try:
                    await self._go_on(name)
                except FlexSpecError as error:
                    _log.error("text %s does not go on: %s", name, error)
                    if isinstance(error, UnknownRequest):  # its user, or a newer program, may know what to do
                        self.outbox.later(self.outbox.journal.park, name, error.message)
                    elif not isinstance(error, OutboxError):  # the file is to blame, and not the request
                        self.outbox.later(self.outbox.journal.finish, name, b"", error.message)

    async def _sweep(self) -> None:
        await self.outbox.begin()
        while True:
            await asyncio.sleep(60 * waiting.STATUS)
            self.outbox.later(self.outbox.journal.sweep)

    async def _go_on(self, name: str) -> None:
        """Write a text of the outbox when there is room, unless its user is to be asked; it waits for long.

        Raises:
            OutboxError: the outbox cannot be read.
            UnknownRequest: the request cannot be.
        """
        outbox, limits = self.outbox, self._limits
        while True:
            entry = await outbox.run(outbox.journal.entry, name)
            if entry is None or entry.state not in ("queued", "writing"):
                return
            old = entry.is_old(outbox.journal.now(), limits.outbox_age, limits.deliver)
            if old and self.text(name) is None:
                outbox.later(outbox.journal.park, name, "it is old")
                return
            try:
                await self._write_on(entry)
            except TooManyTexts as full:
                await asyncio.sleep(full.retry_after)
            except NoRoom:
                await asyncio.sleep(waiting.STATUS / 2)
            else:
                return

    async def _write_on(self, entry: Entry) -> None:
        wanted = unpack(entry.body, TextRequest)
        delivery = self._limits.deliver if entry.mode == "deliver" else 0
        patience = max(wanted.spec.wait or 0.0, self._limits.outbox_age, delivery)
        wanted = replace(wanted, spec=replace(wanted.spec, wait=patience))
        text = await self._admit(wanted, key_of(entry), readers=0)
        if text.settled:
            self._release(text)

    async def persist(self, wanted: TextRequest, key: IdempotencyKey) -> str:
        """Have the outbox persist a request whose turn comes later; the id of its text, unless that is over.

        Raises:
            KeyReused: the key was used for another request.
            OutboxError: the outbox is full, or cannot be written.
        """
        async with self._admission:
            entry = await self._persisted(wanted, key)
            return entry.id if entry.unfinished else ""

    async def drop(self, name: str) -> None:
        """Cancel a text by its id, and forget it."""
        async with self._admission:  # or one that is just being taken would be written all the same
            text = self.text(name)
        if text is not None:
            task = self._active.get(text)
            self._perform(text, [each for each in text.dropped() if each is not TextEffect.FORGET])
            if task is not None:
                if text.settled:  # it only waits for room on the disk
                    task.cancel()
                await asyncio.wait([task])
        await self.outbox.run(self.outbox.journal.forget, name)

    async def close(self) -> None:
        """Take no more; end those that are being written with an error that says why: texts with a key go on later."""
        self.closed = self._generator.closed = True
        tasks = [task for task in self._active.values() if task is not None and not task.done()]
        for text, task in tuple(self._active.items()):
            self._perform(text, text.node_stops())
            if text.settled and task is not None:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.grace)
        self._generator.close()
        await self.outbox.close()

    # Which text

    async def _asked(self, wanted: TextRequest, key: IdempotencyKey) -> Text:
        """The text of a key, for one more reader; that one may go away meanwhile."""
        admission = asyncio.create_task(self._admit(wanted, key, readers=1), name="admission")
        try:
            return await asyncio.shield(admission)
        except asyncio.CancelledError:
            admission.add_done_callback(self._asked_in_vain)
            raise

    def _asked_in_vain(self, admission: asyncio.Task[Text]) -> None:
        if not admission.cancelled() and admission.exception() is None:
            self._leave(admission.result())

    async def _admit(self, wanted: TextRequest, key: IdempotencyKey, *, readers: int) -> Text:
        async with self._admission:
            text = self._keyed.get(key.key)
            if text is None or (text.end is not None and not text.settled):
                text = await self._found(wanted, key)
            elif text.key is None or not key.marks(text.key):
                raise KeyReused("this idempotency key was used for another request")
            if text.readers >= self._limits.max_readers:
                raise self._too_many("too many requests with this idempotency key read its text")
            for _ in range(readers):
                self._perform(text, text.read())
            return text

    async def _found(self, wanted: TextRequest, key: IdempotencyKey) -> Text:
        """A text of a key that is neither written nor read: new, or as the outbox has it."""
        self._make_room()
        outbox, journal = self.outbox, self.outbox.journal
        outbox.write()
        entry = await self._persisted(wanted, key)
        about: dict[str, Any] = {"name": entry.id, "created": int(entry.accepted), "now": entropy.now()}
        if entry.unfinished:
            if entry.id not in outbox.fresh:
                entry = await outbox.run(journal.unpark, entry.id)
            outbox.fresh.discard(entry.id)
            record = TextRecord(outbox, entry, await outbox.run(journal.committed, entry.id))
            if self.closed:  # meanwhile; it is written at the next start
                raise stopping()
            promised = entry.restarts > 0 and entry.path != ASKED
            text = Text(wanted.spec, key, age=self._limits.outbox_age, new=not promised, **about)
            self._write(text, record)
        else:
            answer = await outbox.run(journal.answer, entry.id)
            text = Text.recalled(wanted.spec, key, answer, **about)
            self._active[text] = None
        self._keyed[key.key] = text
        return text

    async def _persisted(self, wanted: TextRequest, key: IdempotencyKey) -> Entry:
        """A request as the outbox has it, from now on or already."""
        outbox, journal = self.outbox, self.outbox.journal
        entry = await outbox.run(journal.under, key.key)
        if entry is None or entry.state == "failed":
            entry = _entry(wanted, key, journal.now())
            await outbox.run(journal.accept, entry)
        elif entry.digest != key.digest:
            raise KeyReused("this idempotency key was used for another request")
        elif entry.state == "stale":
            entry = await outbox.run(journal.unpark, entry.id)
        else:
            return entry
        outbox.fresh.add(entry.id)
        return entry

    def _begin(self, spec: TextSpec) -> Text:
        self._make_room()
        text = Text(spec, name=entropy.name(12), created=int(entropy.wall()), now=entropy.now())
        self._perform(text, text.read())
        self._write(text, None)
        return text

    def _make_room(self) -> None:
        if self.closed:
            raise stopping()
        if len(self) >= self._limits.api_texts:
            raise self._too_many(f"{len(self)} texts are being written or read, as many as may be")

    def _too_many(self, message: str) -> TooManyTexts:
        # A place becomes free about every pace / limit seconds.
        wait = min(30, max(1, math.ceil(self._pace / self._limits.api_texts)))
        return TooManyTexts(message, wait)

    # How it is written

    def _write(self, text: Text, record: TextRecord | None) -> None:
        if text.spec.seed is None:
            seed = entropy.bits(SEED_BITS) if text.key is None else text.key.seed
            text.spec = replace(text.spec, seed=seed)
        self._metrics.started(text)
        self._perform(text, text.begin())
        task = self._active[text] = asyncio.create_task(self._run(text, record), name=f"text {text.id}")
        task.add_done_callback(partial(self._ended, text))
        if record is not None:
            loop = asyncio.get_running_loop()
            aged = loop.call_later(self._limits.outbox_age, lambda: self._perform(text, text.aged()))
            task.add_done_callback(lambda _task: aged.cancel())  # or it would hold the text for as long

    async def _run(self, text: Text, record: TextRecord | None) -> None:
        """Write a text, and have the journal know of its end before anybody else does."""
        voice, speaking = self.voice, None
        if voice is not None and text.spec.offline == "provisional":
            speaking = Speaking(voice, text)
        try:
            end = await self._tried(text, record, speaking)
        except FlexSpecError as error:
            end = End(None, error=error)
            if speaking is not None and text.provisional and (end.unreached or isinstance(error, TimeIsOver)):
                end = End("provisional", speaking.figures() if text.figures is None else text.figures())
        except Exception:  # noqa: BLE001  the top of a text's task; logged with its traceback
            _log.exception("text %s failed", text.id)
            end = End(None, error=FlexSpecError("the edge node failed; its log says how"))
        finally:
            if speaking is not None:
                speaking.end()
        broken = self._generator.node.failure is not None
        effects = text.ended(end, entropy.now(), goes_on=broken)
        if text.end is not None:
            self._perform(text, effects)
            return
        complete = effects == [TextEffect.ANSWER]
        for call in filter(None, (self._disk(text, effect) for effect in effects)):
            await self._noted(text, call, complete=complete)
        text.persisted()

    async def _tried(self, text: Text, record: TextRecord | None, speaking: Speaking | None) -> End:
        """Write a text, by the target or on this device; where nobody can begin it, ask again while that speaks."""
        if text.spec.offline == LOCAL_ONLY:
            return await write_locally(self.voice, text)
        if speaking is None or ((own := self.model) is not None and speaking.voice.drafts(own)):
            return await self._written(text, record, speaking)
        node = self._generator.node

        def alone() -> None:
            if not text.size and (text.figures is None or text.figures().worker is None):
                speaking.begin(node.alone_tokens(node.models.default))

        patience = 0.6 * node.link.answer_timeout if node.link.is_up else waiting.LOOK
        begins = asyncio.get_running_loop().call_later(patience, alone)
        try:
            while True:
                try:
                    return await self._written(text, record, speaking)
                except (LinkError, WorkerError):
                    alone()
                    if text.figures is not None or speaking.over:
                        raise
                await speaking.spoken(waiting.ANSWER)
        finally:
            begins.cancel()

    async def _written(self, text: Text, record: TextRecord | None, speaking: Speaking | None) -> End:
        waits = partial(self._waits, text)
        async with self._generator.writing(text.spec, waits, record, speaking) as writing:
            last, tokens = text.began, writing.tokens
            _log.info("text %s is session %d", text.id, writing.generation.session)
            told = speaking.told if speaking is not None else lambda figures: figures
            text.figures = lambda: told(writing.figures())
            if writing.span is not None:
                writing.span.note({"gen_ai.response.id": text.id})
            self._metrics.began(text, writing)
            try:
                async for pieces in writing.pieces():
                    now, seen = entropy.now(), writing.tokens
                    if seen > tokens:
                        self._metrics.committed(writing, seen - tokens, now - last, first=not tokens)
                        last, tokens = now, seen
                    text.version, text.form = writing.version, writing.form
                    if isinstance(pieces, str):
                        text.unverified(pieces)
                    else:
                        if pieces and speaking is not None:
                            speaking.end()
                        text.confirmed(pieces)
            finally:
                figures = text.figures()
                text.figures = lambda: figures
                self._took(text, figures)
            return End(writing.reason, figures)

    def _waits(self, text: Text, wait: Wait) -> None:
        self._perform(text, text.wait(wait))

    def _took(self, text: Text, figures: TextFigures) -> None:
        """Count a session that is over, and log each limit that stands otherwise than it was last said to."""
        self._metrics.took(text, figures)
        for limit in figures.limits:
            if limit.state not in ("unknown", self._stood.get(limit.name, "kept")):
                self._stood[limit.name] = limit.state
                _log.warning("%s", limit_in_words(limit))

    async def _noted(self, text: Text, call: Callable[[], object], *, complete: bool) -> None:
        """Have the outbox note an end; where its disk is full, as soon as there is room.

        Until then an answer is told from memory, or whoever asks again would have it written again.
        """
        told = False
        while True:
            try:
                await self.outbox.run(call)
            except OutboxError as lost:
                if not told:
                    _log.error("text %s: its end is not persisted: %s", text.id, lost)
                told = True
                if complete:
                    text.persisted()
                if not isinstance(lost, NoRoom) or (text.readers and not complete):
                    return
                await asyncio.sleep(waiting.STATUS / 2)
            else:
                return

    # What follows

    def _disk(self, text: Text, effect: TextEffect) -> Callable[[], object] | None:
        """The call of the journal for an effect; None where it has no part in it."""
        journal, name = self.outbox.journal, text.id
        match effect:
            case TextEffect.ANSWER:
                return partial(journal.finish, name, text.answer())
            case TextEffect.FAILURE:
                return partial(journal.finish, name, b"", text.why)
            case TextEffect.FORGET:
                return partial(journal.forget, name)
            case TextEffect.PARK:
                self.outbox.write()
                return partial(journal.park, name, text.why)
            case TextEffect.NOTE_READ:
                return partial(journal.set_read, name)
            case _:
                return None

    def _perform(self, text: Text, effects: Sequence[TextEffect]) -> None:
        for effect in effects:
            if effect is TextEffect.STOP:
                if (task := self._active.get(text)) is not None:
                    task.cancel()
            elif effect is TextEffect.QUEUE:
                assert text.key is not None  # noqa: S101  only such texts are queued again
                self.outbox.go_on(text.id, text.key.path)
            elif (call := self._disk(text, effect)) is not None:
                self.outbox.later(call)

    def _ended(self, text: Text, task: asyncio.Task[None]) -> None:
        """A text's task is over, or was cancelled, maybe before it began."""
        if not task.cancelled():
            task.result()
        self._over.append(text.view())
        self._metrics.ended(text, text.outcome)
        self._pace += (entropy.now() - text.began - self._pace) / 8
        if not text.readers:
            self._release(text)

    def _leave(self, text: Text) -> None:
        """A reader leaves a text."""
        self._perform(text, text.left(entropy.now()))
        task = self._active.get(text)
        if not text.readers and (task is None or task.done()):
            self._release(text)

    def _release(self, text: Text) -> None:
        if not text.readers:
            self._active.pop(text, None)
        if text.key is not None and self._keyed.get(text.key.key) is text and not text.readers:
            del self._keyed[text.key.key]


def key_of(entry: Entry) -> IdempotencyKey:
    """The key of a request in the outbox."""
    return IdempotencyKey(entry.key, entry.digest, entry.path, entry.client, entry.choice)


def _entry(wanted: TextRequest, key: IdempotencyKey, now: float) -> Entry:
    return Entry(
        id=entropy.name(12),
        key=key.key,
        digest=key.digest,
        path=key.path,
        body=wanted.pack(),
        client=key.client,
        choice=key.choice,
        mode=wanted.spec.offline or "hold",
        accepted=now,
    )
