"""A proxy before an edge node that records what frameworks ask and what they are answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from lab.testbed.deployment import free_port

_HOP = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding", "content-encoding"}
_PATIENCE = 600.0


@dataclass(slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        path: path and query of the request.
        request: body of the request, from JSON; None where it has none.
        status: status of the answer.
        answer: body of the answer as it came.
    """

    path: str
    request: Any
    status: int = 0
    answer: str = ""


@dataclass(slots=True)
class Recorder:
    """Forwards requests to a server.

    Attributes:
        url: root of the server.
        exchanges: all so far, in the order in which they began.
    """

    url: str
    exchanges: list[Exchange] = field(default_factory=list)
    client: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(timeout=_PATIENCE))

    async def forward(self, request: Request) -> StreamingResponse:
        """Ask the server, and pass its answer on as it comes."""
        body = await request.body()
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        exchange = Exchange(path, json.loads(body) if body else None)
        self.exchanges.append(exchange)
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        asked = self.client.build_request(request.method, self.url + path, headers=headers, content=body)
        response = await self.client.send(asked, stream=True)
        exchange.status = response.status_code
        kept = {name: value for name, value in response.headers.items() if name not in _HOP}

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in response.aiter_bytes():
                    exchange.answer += part.decode("utf-8", "replace")
                    yield part
            finally:
                await response.aclose()

        return StreamingResponse(parts(), response.status_code, kept)


@asynccontextmanager
async def recorder(url: str) -> AsyncIterator[tuple[Recorder, str]]:
    """A recorder before a server, and its own root, for as long as the block lasts."""
    made = Recorder(url)
    methods = ["GET", "HEAD", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", made.forward, methods=methods)])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(), name="recorder")
    try:
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.02)
        yield made, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving
        await made.client.aclose()
