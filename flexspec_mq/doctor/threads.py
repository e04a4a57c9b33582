"""Blocking work that may be abandoned: a check that hangs must not keep the doctor from ending."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Call `work` on a thread of its own, which ends with the process at the latest.

    Unlike the event loop's executor, neither cancellation nor the end of the program waits for it.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # a cancelled wait is not told to it: what it comes to is dropped

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await asyncio.wrap_future(done)
