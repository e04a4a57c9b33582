"""Requests with images and long texts, from the device's HTTP through Mosquitto, as blobs, to a server of models."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.launcher import PrivateBroker
from cloud_worker.engine.load import load_engine
from cloud_worker.settings import WorkerSettings
from tests.edge_node.api.served import Served, content, served
from tests.engine_server import EngineServer

PNG = b"\x89PNG\r\n\x1a\n"
ANSWER = "a cat"


class SeeingServer(EngineServer):
    """A server that reads images, by its own word as llama-server gives it, and answers the same to all.

    Attributes:
        vision: whether it says that it does.
    """

    owner = "llamacpp"
    vision = True

    def _app(self) -> Any:
        app = super()._app()
        app.routes.insert(0, Route("/props", lambda _: JSONResponse({"modalities": {"vision": self.vision}})))
        return app

    def _chat(self, body: dict[str, Any]) -> Response:
        self._asks(body)
        delta = {"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        return self._stream(iter([delta, usage]))


@pytest.fixture
def server(tiny: Path) -> Iterator[SeeingServer]:
    with SeeingServer(tiny) as server:
        yield server


@asynccontextmanager
async def site(
    mosquitto: PrivateBroker, server: EngineServer, version: str, **more: Any
) -> AsyncIterator[Served]:
    """A device, and a worker beside the server."""
    settings = WorkerSettings(worker="w1", version=version, engine="openai", engine_url=server.url)
    engine: Any = await asyncio.to_thread(load_engine, settings, lambda _: None)
    async with served(mosquitto, engine=engine, version=version, **more) as api:
        yield api


def image(size: int) -> str:
    """A data: URL of an image of so many bytes."""
    return "data:image/png;base64," + base64.b64encode(PNG + os.urandom(size - len(PNG))).decode()


def shows(*parts: str) -> dict[str, Any]:
    """A chat of one message: images and texts."""
    told = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith(("data:", "http"))
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {"messages": [{"role": "user", "content": told}], "max_tokens": 9}


async def test_an_image_of_two_megabytes_and_a_text_of_one_arrive_bit_for_bit(
    mosquitto: PrivateBroker, server: SeeingServer
) -> None:
    async with site(mosquitto, server, "sees") as api:
        asked = shows("what is", image(2_000_000), "this, and", image(100), "that?")
        answer = await api.post("/v1/chat/completions", asked)
        assert content(answer) == ANSWER
        assert server.asked[-1]["messages"] == asked["messages"]
        long = {"messages": [{"role": "user", "content": os.urandom(500_000).hex()}], "max_tokens": 9}
        assert content(await api.post("/v1/chat/completions", long)) == ANSWER
        assert server.asked[-1]["messages"] == long["messages"]
