"""Tasks that end with a block, waiting for whichever of several comes first, and threads that are left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from flexspec_mq.errors import LocalProtocolError

T = TypeVar("T")


@asynccontextmanager
async def running(work: Coroutine[Any, Any, T], name: str) -> AsyncIterator[asyncio.Task[T]]:
    """A task for as long as the block; cancelled, and waited for, at its end. Its result is the block's business."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for them; what they raise is dropped."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def any_of(*tasks: asyncio.Future[Any]) -> None:
    """Wait until one of them is done. None is cancelled."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def endless(name: str, loop: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
    """Run a loop of a daemon, which is not called before this is: a task may be cancelled before it begins.

    Raises:
        LocalProtocolError: it ended by itself.
    """
    await loop(*args)
    raise LocalProtocolError(f"the {name} loop ended by itself")


def apart(work: Callable[..., T], *args: object) -> Future[T]:
    """Call a blocking function on a thread of its own, which the end of the process leaves behind.

    An executor's threads are waited for then.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
            outcome.set_exception(error)

    outcome.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True).start()
    return outcome


async def on_thread(work: Callable[..., T], *args: object) -> T:
    """Call a blocking function as `apart` does; whoever is cancelled meanwhile leaves the thread behind too."""
    return await asyncio.wrap_future(apart(work, *args))
