"""The listening socket, inside the event loop of the node; node and API together, until cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from edge_node.api.app import create_app
from edge_node.api.http.connections import ApiConnection, ApiConnections
from edge_node.api.serving import Api
from edge_node.api.settings import ApiSettings
from flexspec_mq import waiting
from flexspec_mq.controller.plan import Policy
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.transport.base import LinkSettings

if TYPE_CHECKING:
    from edge_node.node import EdgeNode
    from edge_node.outbox.journal import Journal
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.link import LinkFactory

SPARE = 32
"""Connections beyond as many requests as may be, for probes; all else is refused on them."""
_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own, and cancels `serve`.

    Args:
        config: as uvicorn's.
        started: called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started
        self._leaving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()

    async def main_loop(self) -> None:
        """Renew the Date header until told to leave; uvicorn's own loop looks for that ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4 * waiting.LOOK):
                    await self._leaving.wait()

    def leave(self) -> None:
        """Take no more connections, and end when those that there are have their answers."""
        self.should_exit = True
        self._leaving.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, started: Callable[[int], None]) -> None:
    """Serve the app until cancelled. The node must run for longer than this.

    On cancellation, streams that are open get an error event, sessions are cancelled up to their workers, and the
    clients have `ApiSettings.grace` seconds to read it.

    Args:
        app: made by `create_app`.
        started: told the port when requests are answered.

    Raises:
        UsageError: the port is taken, or the address is none of this machine.
        FlexSpecError: the server ended by itself.
    """
    api: Api = app.state.api
    with _listen(api.settings) as listener:  # closed also when somebody does not wait for an end in order
        port = listener.getsockname()[1]
        server = _Server(_config(app, api), partial(started, port))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="api server")
        try:
            async with running(api.texts.run(), "outbox"):
                await asyncio.wait([serving])
            raise FlexSpecError("the API server ended by itself", hint="its log has the reason")
        finally:
            await api.texts.close()
            await _stop(server, serving)


async def _stop(server: _Server, serving: asyncio.Task[None]) -> None:
    server.leave()
    await asyncio.wait([serving])
    # uvicorn leaves connections open when the grace is over.
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    if not serving.cancelled() and (error := serving.exception()) is not None:
        _log.error("the API server failed", exc_info=error)


def _config(app: Starlette, api: Api) -> uvicorn.Config:
    settings = api.settings
    slow = api.metrics.requests.labels("other", "408")

    def cut(client: str, reason: str, why: str) -> None:
        if reason == "head_timeout":
            slow.inc()
        api.refusals.note(client, reason, why)

    connections = ApiConnections(
        most=settings.max_requests + SPARE,
        most_of_one=None if settings.loopback else settings.api_client_connections,
        head_timeout=settings.head_timeout,
        on_cut=cut,
    )
    return uvicorn.Config(
        app,
        lifespan="off",
        loop="none",
        http=partial(ApiConnection, connections),  # type: ignore[arg-type]  # it is called like a class
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )


def _listen(settings: ApiSettings) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: it cannot be had.
    """
    host = "127.0.0.1" if settings.api_host == "localhost" else settings.api_host
    try:
        family = socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.api_port))
        listener.listen()
    except OSError as error:
        listener.close()
        where = f"{settings.api_host} port {settings.api_port}"
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"{where} is taken", hint="name another port for the API") from error
        raise UsageError(
            f"the API cannot listen on {where}: {error.strerror}", hint="name another address"
        ) from error
    listener.setblocking(False)
    return listener


async def serve_node(
    node: EdgeNode,
    model: LoadedText | None,
    connect: LinkFactory,
    base: LinkSettings,
    *,
    policy: Callable[[], Policy],
    settings: ApiSettings,
    started: Callable[[int], None],
    beside: Callable[[Api], AbstractAsyncContextManager[asyncio.Task[None]]] | None = None,
    journal: Journal | None = None,
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
        beside: serves the texts of the API in another way as well, until its task fails or the block ends.
        journal: keeps requests with a key; without one they are kept in memory.

    Raises:
        UsageError: the port is taken.
        LinkError: the broker refused, or could not be reached within `base.give_up_after`.
    """
    app = create_app(node, model, policy=policy, settings=settings, journal=journal)
    listens = asyncio.Event()

    def tell(port: int) -> None:
        listens.set()
        started(port)

    async with (
        running(serve(app, tell), "api") as serving,
        running(node.wait_broken(), "node") as failing,
    ):
        async with running(listens.wait(), "api listens") as waiting:
            await any_of(serving, waiting)
        if not serving.done():
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(node.running(connect, base))
                ends = [serving, failing]
                if beside is not None:
                    ends.append(await stack.enter_async_context(beside(app.state.api)))
                try:
                    await any_of(*ends)
                    for end in ends[1:]:
                        if end.done():
                            end.result()  # what broke the node, and not what its link meets afterwards
                finally:
                    serving.cancel()
                    await asyncio.wait((serving,))
        for task in (serving, failing):
            if task.done() and not task.cancelled():
                task.result()
