"""An edge node and its API together, until cancelled."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from edge_node.api.app import create_app
from edge_node.api.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from edge_node.api.prompts import TextModel
    from edge_node.api.settings import ApiSettings
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.transport.base import LinkFactory, LinkSettings

T = TypeVar("T")


async def serve_node(
    node: EdgeNode,
    model: TextModel,
    connect: LinkFactory,
    base: LinkSettings,
    *,
    policy: Callable[[], Policy],
    settings: ApiSettings,
    started: Callable[[int], None] | None = None,
) -> None:
    """Run the node and serve its API until cancelled.

    The API answers from the start, also while the broker is still out of reach: its probes say so. On the way out
    streams and sessions are ended first, while the link is still there to tell the workers.

    Args:
        node: not running yet.
        model: the loaded draft; its tokenizer is the targets'.
        connect: makes the link.
        base: where and as whom to connect.
        policy: makes the policy of each session.
        settings: of the API.
        started: told the port when requests are answered.

    Raises:
        UsageError: the port is taken.
        LinkError: the broker refused, or could not be reached within `base.give_up_after`.
    """
    app = create_app(node, model, policy=policy, settings=settings)
    listens = asyncio.Event()

    def tell(port: int) -> None:
        listens.set()
        if started is not None:
            started(port)

    async with (
        _task(serve(app, started=tell), "api") as serving,
        _task(node.wait_broken(), "link failure") as failing,
    ):
        async with _task(listens.wait(), "api listens") as waiting:
            await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            async with node.running(connect, base, everyone=True):
                try:
                    await asyncio.wait((serving, failing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    serving.cancel()
                    await asyncio.wait((serving,))
        for task in (serving, failing):
            if task.done() and not task.cancelled():
                task.result()


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, T], name: str) -> AsyncIterator[asyncio.Task[T]]:
    """A task for as long as the block."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
