"""The listening socket, inside the event loop of the node."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import uvicorn

from flexspec_mq.errors import FlexSpecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from starlette.applications import Starlette

    from edge_node.api.settings import ApiSettings
    from edge_node.api.state import Api

_BACKLOG = 256
_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own, and cancels `serve`.

    Attributes:
        listens: set when requests are answered.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, *, started: Callable[[int], None] | None = None) -> None:
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
        server = _Server(_config(app, api.settings))
        running = asyncio.create_task(server.serve(sockets=[listener]), name="api server")
        try:
            await _first(server.listens.wait(), running)
            _log.info("the API listens on %s port %d", api.settings.host, port)
            if started is not None and server.started:
                started(port)
            await asyncio.wait([running])
            raise FlexSpecError("the API server ended by itself", hint="its log has the reason")
        finally:
            await api.texts.close()
            await _stop(server, running, api.settings.grace)


async def _first(wanted: Coroutine[Any, Any, Any], running: asyncio.Task[None]) -> None:
    """Wait for either."""
    waiting = asyncio.create_task(wanted, name="api server starts")
    try:
        await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _stop(server: _Server, running: asyncio.Task[None], grace: float) -> None:
    """End uvicorn, in order and within a bound."""
    server.should_exit = True
    done, _ = await asyncio.wait([running], timeout=grace + 2.0)
    if not done:
        _log.warning("the API server did not end within %.0f s; it is cut off", grace + 2.0)
        running.cancel()
        await asyncio.wait([running], timeout=1.0)
    elif not running.cancelled() and (error := running.exception()) is not None:
        _log.error("the API server failed", exc_info=error)


def _config(app: Starlette, settings: ApiSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        loop="none",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # Connections, the idle ones included. Far above what texts need: who is refused here gets no JSON.
        limit_concurrency=max(512, 4 * settings.max_texts),
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )


def _listen(settings: ApiSettings) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: it cannot be had.
    """
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    try:
        family = socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{settings.host} port {settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"{where} is taken", hint="name another port for the API") from error
        raise UsageError(
            f"the API cannot listen on {where}: {error.strerror}", hint="name another address"
        ) from error
    listener.setblocking(False)
    return listener
