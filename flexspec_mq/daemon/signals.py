"""SIGTERM and Ctrl-C, mostly inside an event loop. Handlers from before a block are in force again after it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from flexspec_mq.errors import Cancelled

ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a program to end."""


@contextmanager
def ending_interrupts() -> Iterator[None]:
    """Have each signal of `ENDING` raise KeyboardInterrupt in the block, whose end tells what there is by then."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def on_signal(callback: Callable[[], object], *numbers: signal.Signals) -> Iterator[None]:
    """Call `callback` on the running event loop at each of the signals; at `ENDING` when none is named."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers or ENDING}
    for number in before:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # None: set by C code, which nobody here does
                signal.signal(number, handler)


@asynccontextmanager
async def stoppable(
    ending: Callable[[], None] | None = None, numbers: tuple[signal.Signals, ...] = ENDING
) -> AsyncIterator[None]:
    """Signals cancel what runs inside, so that peers are told.

    Args:
        ending: told that one of them came, before anything ends.
        numbers: signals by number.

    Raises:
        Cancelled: one of them came.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine always runs in a task
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if ending is not None:
            ending()
        task.cancel()

    with on_signal(stop, *numbers):
        try:
            yield
        except asyncio.CancelledError:
            if stopped:
                task.uncancel()  # the task may go on after the block
                raise Cancelled("stopped by the user") from None
            raise
