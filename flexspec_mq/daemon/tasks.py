"""Waiting for something, and for what must not end before it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from flexspec_mq.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

T = TypeVar("T")


async def first_of(wait: Coroutine[Any, Any, T], loops: Sequence[asyncio.Task[None]]) -> T:
    """Wait for `wait`, unless a loop ends before: that is an error, and is raised."""
    task = asyncio.ensure_future(wait)
    try:
        done, _ = await asyncio.wait([task, *loops], return_when=asyncio.FIRST_COMPLETED)
        for loop in loops:
            if loop in done:
                loop.result()
                raise LocalProtocolError(f"the {loop.get_name()} loop ended by itself")
        return await task
    finally:
        task.cancel()
