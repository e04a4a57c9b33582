"""The engine's thread: one forward after the other, and what happens when one fails."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from flexspec_mq.protocol.effects import Free, ReleaseToCache, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud_worker.engine.interface import Engine, StepResult
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem

T = TypeVar("T")
Change = Free | ReleaseToCache | Transfer

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Round:
    """Outcome of one round on the engine's thread.

    Attributes:
        results: Results of its steps: one, or one per session after a failure.
        failed: items that the engine cannot compute even alone.
    """

    results: list[StepResult] = field(default_factory=list)
    failed: list[WorkItem] = field(default_factory=list)


class EngineThread:
    """Gives an engine its work, on one thread of its own, and knows what is under way.

    A forward that raises (out of memory, a bug) is no reason to fail all that shared it: what was under way is
    done again one session at a time, from empty caches, and only what fails alone counts as failed.

    Attributes:
        failures: steps that raised.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._underway: dict[SessionKey, WorkItem] = {}
        self._thread = ThreadPoolExecutor(1, "engine")

    @property
    def idle(self) -> bool:
        """Whether a round without new items would do nothing but free sessions."""
        return not self._underway

    async def round(self, changes: Sequence[Change], items: Sequence[WorkItem]) -> Round:
        """Carry out changes in order, take items in, and run one forward over all that is under way."""
        for change in changes:
            if not isinstance(change, Transfer):
                self._underway.pop(change.key, None)
        self._underway.update((item.key, item) for item in items)
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._thread, self._run, changes, items)
        decided = [item for result in done.results for item, _ in (*result.decided, *result.failed)]
        for item in [*decided, *done.failed]:
            if self._underway.get(item.key) is item:
                del self._underway[item.key]
        return done

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have something done on the engine's thread, between two rounds. May be called from any thread.

        The future is cancelled if the thread is closed before its turn comes.

        Raises:
            RuntimeError: the thread is closed.
        """
        return self._thread.submit(call)

    def close(self) -> None:
        """Take no more work. A forward that runs now is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, changes: Sequence[Change], items: Sequence[WorkItem]) -> Round:
        """On the engine's thread."""
        for change in changes:
            self._change(change)
        try:
            for item in items:
                self._engine.add(item)
            return Round([] if self._engine.idle() else [self._engine.step()])
        except Exception:  # noqa: BLE001  the top of the engine's thread; logged, and settled one by one
            _log.exception("a forward over %d sessions failed; doing them one by one", len(self._underway))
            return self._one_by_one(list(self._underway.values()))

    def _change(self, change: Change) -> None:
        match change:
            case Free(key):
                self._engine.free(key)
            case ReleaseToCache(key):
                self._engine.release(key)
            case Transfer(source, key, shared):
                self._engine.transfer(source, key, shared)

    def _one_by_one(self, items: Sequence[WorkItem]) -> Round:
        for item in items:
            self._engine.free(item.key)
        done = Round()
        for item in items:
            try:
                self._engine.add(item)
                while not self._engine.idle():
                    done.results.append(self._engine.step())
            except Exception:  # noqa: BLE001  logged, and told to the one edge that it concerns
                _log.exception("session %s/%s cannot be computed", *item.key)
                self._engine.free(item.key)
                done.failed.append(item)
        return done
