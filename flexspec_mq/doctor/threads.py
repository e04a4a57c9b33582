"""Blocking work that may be abandoned: a check that hangs must not keep the doctor from ending."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Call `work` on a thread of its own, which ends with the process at the latest.

    Unlike the event loop's executor, neither cancellation nor the end of the program waits for it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def run() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            failure = error
        try:
            loop.call_soon_threadsafe(settle, value, failure)
        except RuntimeError:  # the loop was closed meanwhile: the doctor has ended
            return

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await done
