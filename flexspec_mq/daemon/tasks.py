"""Tasks that end with a block, and waiting for whichever of several comes first."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from flexspec_mq.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

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


async def any_of(*tasks: asyncio.Future[Any]) -> None:
    """Wait until one of them is done. None is cancelled."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def first_of(wait: Coroutine[Any, Any, T], loops: Sequence[asyncio.Task[None]]) -> T:
    """Wait for `wait`, unless a loop ends before: that is an error, and is raised."""
    async with running(wait, "wait") as task:
        await any_of(task, *loops)
        for loop in loops:
            if loop.done():
                loop.result()
                raise LocalProtocolError(f"the {loop.get_name()} loop ended by itself")
        return task.result()
