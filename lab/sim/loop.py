"""An event loop of virtual time: it jumps to the next timer when nothing is ready, and has no sockets and no threads.

A call that goes to an executor runs on the loop itself, each executor's calls one after the other, and takes as long
as the machine says on which it runs. Tasks and futures hash by a count and not by their address, so that sets of them
have the same order in each run.
"""

# ruff: noqa: SLF001  the handles of asyncio, and the drafter of a device, are ours here
from __future__ import annotations

import asyncio
import gc
import heapq
import random
import time
from asyncio import base_events, events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar

import edge_node.drafting
from flexspec_mq import entropy

T = TypeVar("T")
EPOCH = 1_800_000_000.0
"""Wall clock at the beginning of each history."""
TURN = 1e-6
"""Seconds that a turn of the loop takes: time never stands still for whoever compares it with sums of floats."""
DRAFTING = 0.002
"""Seconds that a round of drafting takes for each session."""


class Stuck(AssertionError):
    """Nothing will ever happen any more, or too much does."""


class Machine(Protocol):
    """Hardware that code runs on."""

    def wall(self) -> float:
        """Seconds since the Unix epoch, as far as it knows."""
        ...

    def busy(self, what: str) -> float:
        """Seconds that a call takes on a thread of this name."""
        ...


MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)
"""The machine on which the present code runs; None is outside of all."""


class _Task(asyncio.Task[Any]):
    """A task that hashes by its number."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: SimLoop, **more: Any) -> None:
        self.number = loop.next_number()
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, *, loop: SimLoop) -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimLoop(base_events.BaseEventLoop):
    """The loop.

    Args:
        most: callbacks that a history may have.

    Attributes:
        steps: callbacks that were run.
    """

    def __init__(self, most: int = 50_000_000) -> None:
        super().__init__()
        self.steps = 0
        self._most = most
        self._now = 0.0
        self._timer_cancelled_count = 0
        self._numbers = 0
        self._free_at: dict[object, float] = {}  # executors
        self._errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self._errors.append(context))

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Words of asyncio about exceptions that nobody took."""
        return self._errors

    def next_number(self) -> int:
        """Another number."""
        self._numbers += 1
        return self._numbers

    def time(self) -> float:
        """Seconds since the beginning of the history."""
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return _Future(loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """A task of this loop."""
        return _Task(coro, loop=self, name=None if name is None else str(name), context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call a function in half of the time that the machine takes for it, and tell its result in the other half."""
        machine, done = MACHINE.get(), self.create_future()
        what = getattr(executor, "_thread_name_prefix", "asyncio")
        takes = 0.0 if machine is None else machine.busy(what)

        def call() -> None:
            try:
                result: Any = func(*args)
            except Exception as error:  # noqa: BLE001  it is raised where it is awaited
                self.call_later(takes / 2, _settle, done, error, None)
            else:
                self.call_later(takes / 2, _settle, done, None, result)

        begins = max(self._now, self._free_at.get(executor, 0.0))
        self._free_at[executor] = begins + takes
        self.call_at(begins + takes / 2, call)
        return done

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while scheduled and scheduled[0]._cancelled:
                handle = heapq.heappop(scheduled)
                handle._scheduled = False
                self._timer_cancelled_count -= 1
            if not scheduled:
                raise Stuck(f"nothing happens any more at {self._now:.3f} s")
            self._now = max(self._now, scheduled[0]._when)
        self._now += TURN
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self.steps += 1
                handle._run()
        if self.steps > self._most:
            raise Stuck(f"more than {self._most} callbacks until {self._now:.3f} s")

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:  # noqa: ARG002  asyncio's signature
        """Forget cancelled timers where they are most."""
        self._timer_cancelled_count = self._timer_cancelled_count + 1
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if self._timer_cancelled_count > 100 and 2 * self._timer_cancelled_count > len(scheduled):
            for each in scheduled:
                each._scheduled = not each._cancelled
            scheduled[:] = [each for each in scheduled if not each._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0

    def _write_to_self(self) -> None:
        """Nobody waits in a system call."""

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""


def _settle(done: asyncio.Future[Any], error: BaseException | None, result: Any) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


class _InlineThread:
    """The drafter's thread: its rounds are done on the loop."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        del name
        self._drafts: Any = target.__self__  # type: ignore[attr-defined]

    def start(self) -> None:
        """Take its rounds over."""
        self._drafts._rounds = _InlineRounds(self._drafts)


class _InlineRounds:
    def __init__(self, drafts: Any) -> None:
        self._drafts = drafts

    def put(self, asked: tuple[asyncio.Future[Any] | None, Any, Any]) -> None:
        answer, freed, wanted = asked
        drafted, _ = self._drafts._round(freed, wanted)
        if answer is not None:
            takes = DRAFTING * len(wanted)
            answer.get_loop().call_later(takes, _settle, answer, None, (drafted, takes))


def _wall() -> float:
    machine = MACHINE.get()
    return EPOCH + entropy.now() if machine is None else machine.wall()


@contextmanager
def _replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    for where, name, value in changes:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


async def _ended() -> None:
    """Cancel what still runs, or it would be finalized whenever memory is collected."""
    for _ in range(10):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        for task in sorted(left, key=hash):
            task.cancel()
        await asyncio.wait(left, timeout=100.0)


def run(work: Callable[[], Coroutine[Any, Any, T]], seed: int, most: int = 50_000_000) -> T:
    """Run a coroutine on a new loop, whose time and chance are all that there is in this process meanwhile."""
    loop = SimLoop(most)
    state = random.getstate()
    random.seed(seed)
    changes: list[tuple[Any, str, Any]] = [
        (time, "time", _wall),
        (time, "monotonic", loop.time),
        (time, "perf_counter", loop.time),
        (time, "thread_time", loop.time),
        (entropy, "chance", random.Random(seed)),
        (edge_node.drafting, "Thread", _InlineThread),
    ]
    collects = gc.isenabled()
    gc.disable()  # what it finalizes must not depend on when it comes
    try:
        with _replaced(changes):
            try:
                return loop.run_until_complete(work())
            finally:
                loop.run_until_complete(_ended())
    finally:
        loop.close()
        random.setstate(state)
        gc.collect(1)
        if collects:
            gc.enable()
