"""An edge node and its API together, until cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edge_node.api.app import create_app
from edge_node.api.server import serve
from flexspec_mq.daemon.tasks import any_of, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.api.settings import ApiSettings
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.plan import Policy
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.base import LinkFactory, LinkSettings


async def serve_node(
    node: EdgeNode,
    model: LoadedText,
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
        settings: settings of the API.
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
        running(serve(app, started=tell), "api") as serving,
        running(node.wait_broken(), "node") as failing,
    ):
        async with running(listens.wait(), "api listens") as waiting:
            await any_of(serving, waiting)
        if not serving.done():
            async with node.running(connect, base, everyone=True):
                try:
                    await any_of(serving, failing)
                    if failing.done():
                        failing.result()  # what broke the node, and not what its link meets afterwards
                finally:
                    serving.cancel()
                    await asyncio.wait((serving,))
        for task in (serving, failing):
            if task.done() and not task.cancelled():
                task.result()
