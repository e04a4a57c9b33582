"""An engine whose target runs in somebody else's server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from cloud_worker.engine.grammars import TextGrammars
from cloud_worker.engine.interface import StepResult
from cloud_worker.engine.servers.client import ServerBusy, ServerGone
from flexspec_mq import entropy, waiting
from flexspec_mq.daemon.retry import Backoff, retrying
from flexspec_mq.errors import FlexSpecError, GrammarError, ServerRefused
from flexspec_mq.protocol.worker.types import Full

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.engine.interface import Facts, RequestFetcher
    from cloud_worker.engine.servers.heads import ServerHeads
    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.grammar.compiled import CompiledGrammars
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import DraftRows, WorkItem

_log = logging.getLogger(__name__)


class AskedServer(Protocol):
    """A server of models."""

    async def models(self) -> object:
        """See whether it is there, and of the models that it was of.

        Raises:
            FlexSpecError: it is not.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class AskedText(Protocol):
    """A session's text at a server.

    Attributes:
        read: Tokens that the server has read already.
    """

    read: int

    async def decide(
        self, item: WorkItem, model: str, grammars: TextGrammars | None
    ) -> tuple[tuple[int, ...], DraftRows]:
        """Decide one token of an item, or more.

        Raises:
            ServerGone, ServerRefused: the server cannot be asked.
            GrammarError: the text cannot go on by its grammar.
        """
        ...

    async def close(self) -> None:
        """Stop what the server writes by itself."""
        ...


class ServerEngine:
    """An `Engine` over a server. Requests of all sessions run beside each other on a loop of their own.

    Args:
        server: the server.
        heads: heads that it holds beside the base; None where each version is a model of its own.
        text: begins a text at the server, which has read so many tokens of it already.
        model: Server's name of the model of a version and a head.
        grammars: Grammars of its texts.
        loop: runs on a thread of its own; this one has all of it.
        facts: Properties of the target.
        requests: fetches requests of devices; None fetches none.

    Attributes:
        head_holder: see `Engine`.
        trouble: see `Engine`.
        full: see `Engine`.
        requests: see `Engine`.
    """

    memory = None

    def __init__(
        self,
        server: AskedServer,
        heads: ServerHeads | None,
        facts: Facts,
        *,
        text: Callable[[int], AskedText],
        model: Callable[[str, str], str],
        grammars: CompiledGrammars | None,
        loop: asyncio.AbstractEventLoop,
        requests: RequestFetcher | None = None,
    ) -> None:
        self.facts = facts
        self.requests: RequestFetcher | None = requests
        self.grammars = grammars
        self.trouble = ""
        self.full = Full()
        self.head_holder = heads
        self._server, self._text, self._model = server, text, model
        self._where = None if grammars is None else TextGrammars(grammars)
        self._heads: dict[str, str] = {}
        self._items: dict[SessionKey, WorkItem] = {}
        self._results: deque[StepResult] = deque()
        self._wakes = threading.Event()
        self._loop = loop
        # On the loop only:
        self._texts: dict[SessionKey, AskedText] = {}
        self._tasks: dict[SessionKey, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    def add(self, item: WorkItem) -> None:
        """See `Engine`."""
        self._items[item.key] = item
        self._loop.call_soon_threadsafe(self._begin, item)

    def hold(self, version: str, head: str) -> None:
        """See `Engine`."""
        self._heads[version] = head

    def hold_drafter(self, version: str, drafter: PricedDrafter) -> None:
        """See `Engine`; a server's own drafter is its own affair."""

    def drop(self, version: str) -> str:
        """See `Engine`."""
        return self._heads.pop(version, "")

    def free(self, key: SessionKey) -> None:
        """See `Engine`."""
        self._items.pop(key, None)
        self._loop.call_soon_threadsafe(self._forget, key)

    def release(self, key: SessionKey) -> None:
        """See `Engine`."""
        self._items.pop(key, None)
        self._loop.call_soon_threadsafe(self._rest, key)

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None) -> None:  # noqa: ARG002
        """See `Engine`; what the server has read is in its cache for all."""
        self._loop.call_soon_threadsafe(self._go_on, source, key)

    def step(self) -> StepResult:
        """Wait until something is decided, or `wake` is called."""
        self._wakes.wait(waiting.RETRY_AWAITED)
        self._wakes.clear()
        done = self._results.popleft() if self._results else StepResult()
        if self._results:
            self._wakes.set()
        done.decided = [one for one in done.decided if self._settled(one[0])]
        done.failed = [one for one in done.failed if self._settled(one[0])]
        return done

    def _settled(self, item: WorkItem) -> bool:
        """Whether an item that is decided has not been dropped or replaced meanwhile; it is not pending any more."""
        return self._items.get(item.key) is item and self._items.pop(item.key) is item

    def idle(self) -> bool:
        """See `Engine`."""
        return not self._items

    def wake(self) -> None:
        """See `Engine`."""
        self._wakes.set()

    def close(self) -> None:
        """See `Engine`."""
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(waiting.FAREWELL)
        self._loop.call_soon_threadsafe(self._loop.stop)

    # On the loop

    def _begin(self, item: WorkItem) -> None:
        text = self._texts.get(item.key)
        if text is None:
            text = self._texts[item.key] = self._text(0)
        before = self._tasks.pop(item.key, None)
        if before is not None:
            before.cancel()
        self._tasks[item.key] = self._loop.create_task(self._decide(item, text))

    async def _decide(self, item: WorkItem, text: AskedText) -> None:
        """Decide an item, however often the server goes away meanwhile."""
        model = self._model(item.version, self._heads.get(item.version, ""))

        async def once() -> StepResult:
            began = time.perf_counter()
            try:
                tokens, rows = await text.decide(item, model, self._where)
            except ServerBusy as error:
                self.full = Full(error.message, entropy.now() + error.seconds)
                self._wakes.set()
                _log.warning("no new sessions for now: %s", error.message)
                await asyncio.sleep(error.seconds)
                return await once()
            except ServerRefused:
                if self.head_holder is None or not await self.head_holder.again(model):
                    raise
                tokens, rows = await text.decide(item, model, self._where)
            ms = int(1000 * (time.perf_counter() - began))
            return StepResult([(item, tokens)], rows={item.key: rows}, times={item.key: ms})

        backoff = Backoff(top=waiting.RETRY_AWAITED, give_up_after=3 * waiting.RETRY_AWAITED)
        result = StepResult(failed=[(item, FlexSpecError(""))])
        while True:
            try:
                result = await retrying(
                    once, what="the server", on=ServerGone, backoff=backoff, on_wait=_log.info
                )
            except ServerGone as error:
                await self._back(error)
                continue
            except (GrammarError, ServerRefused) as error:
                result = StepResult(failed=[(item, error)])
                if isinstance(error, ServerRefused):
                    _log.error("session %s/%s cannot go on: %s", *item.key, error.message)
            except Exception:  # noqa: BLE001  logged, and told to the one edge that it concerns
                _log.exception("session %s/%s cannot go on", *item.key)
            break
        self._results.append(result)
        self._wakes.set()

    async def _back(self, error: ServerGone) -> None:
        """Wait until the server is there again."""
        if self._watch is None or self._watch.done():
            self.trouble = error.message
            _log.error("the server does not answer, so no new sessions are taken: %s", error.message)
            self._watch = self._loop.create_task(self._watching())
        await asyncio.shield(self._watch)

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(waiting.RETRY_AWAITED)
            with contextlib.suppress(FlexSpecError):  # also while it serves another model
                await self._server.models()
                break
        self.trouble = ""
        _log.info("the server answers again")

    def _go_on(self, source: SessionKey, key: SessionKey) -> None:
        before = self._texts.get(source)
        if before is not None:
            self._texts[key] = self._text(before.read)

    def _rest(self, key: SessionKey) -> AskedText | None:
        """Ask nothing more for a session."""
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()
        if (text := self._texts.get(key)) is not None:
            self._closing.add(closing := self._loop.create_task(text.close()))
            closing.add_done_callback(self._closing.discard)
        return text

    def _forget(self, key: SessionKey) -> None:
        self._rest(key)
        self._texts.pop(key, None)

    async def _close(self) -> None:
        for key in list(self._texts):
            self._forget(key)
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*self._closing)
        await self._server.close()
