"""A device is away while its answer is written: real daemons, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.transport.base import LinkSettings
from lab.testbed.deployment import free_port
from lab.testbed.process import Process
from tests.integration.processes import start, start_worker
from tests.transport.proxy import Proxy, proxy_to
from tests.transport.reading import retained

PATIENCE = 60.0
BODY: dict[str, Any] = {
    "model": "base",
    "prompt": "Once upon a time",
    "temperature": 0.9,
    "seed": 7,
    "max_tokens": 1000,
    "ignore_eos": True,
}


@dataclass
class Site:
    """A broker, a worker, and a node of one name, port and folder, in each of its lives.

    Attributes:
        link: way of the node to its broker.
    """

    broker: PrivateBroker
    tiny: Path
    folder: Path
    link: Proxy
    api: httpx2.AsyncClient

    async def worker(self, name: str) -> Process:
        process = await start_worker(self.broker, name, "--target", str(self.tiny), "--draft", "none")
        await process.event()
        return process

    async def node(self) -> Process:
        where = "--broker", f"127.0.0.1:{self.link.port}", "--api-port", str(self.api.base_url.port)
        flags = "--edge", "away", "--draft", str(self.tiny), "--state-dir", str(self.folder), *where
        process = await start("edge_node", "serve", "--ready-json", *flags)
        await process.event()
        return process

    async def whole(self) -> str:
        """The text as the target writes it."""
        answer = (await self.api.post("/completions", json=BODY)).json()
        assert "choices" in answer, answer
        return str(answer["choices"][0]["text"])

    async def asked(self) -> tuple[str, str]:
        """Ask for a text that is to be delivered; its number in the outbox, and what is read before all is gone."""
        text, body = "", BODY | {"stream": True, "offline": "deliver"}
        async with self.api.stream("POST", "/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
                if len(text) > 20:
                    break
        return reply.headers["x-flexspec-outbox"], text

    async def found(self, number: str) -> dict[str, Any]:
        """A text in the outbox, a moment later."""
        await asyncio.sleep(0.02)
        found: dict[str, Any] = (await self.api.get(f"/outbox/{number}")).json()
        return found

    async def kept(self) -> dict[str, bytes]:
        """Answers at the broker."""
        return await retained(
            LinkSettings(port=self.broker.port, client_id="looks"), topics.delivery_filter("+")
        )


@pytest.fixture
async def site(own_mosquitto: PrivateBroker, tiny: Path, tmp_path: Path) -> AsyncIterator[Site]:
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with (
        proxy_to(own_mosquitto.host, own_mosquitto.port) as link,
        httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as api,
    ):
        yield Site(own_mosquitto, tiny, tmp_path, link, api)


@pytest.mark.timeout(600)
async def test_a_device_that_was_killed_finds_the_answer_that_was_written_meanwhile(site: Site) -> None:
    worker, node = await site.worker("w1"), await site.node()
    whole, (number, text) = await site.whole(), await site.asked()
    worker.pause()  # or it might be the quicker one
    await node.kill()
    site.link.stall()
    site.link.cut()
    worker.resume()
    async with asyncio.timeout(PATIENCE):
        while not await site.kept():
            pass
    site.link.resume()
    node = await site.node()
    async with asyncio.timeout(PATIENCE):
        while (found := await site.found(number))["state"] != "done":
            pass
    assert found["text"] == whole
    assert found["text"].startswith(text)
    assert len((await site.api.get("/outbox")).json()["data"]) == 1
    async with asyncio.timeout(PATIENCE):
        while await site.kept():
            pass
    await node.kill()
    await worker.kill()
