"""A device's process is killed while its answer is written, and another one finds it: real daemons, over HTTP."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.transport.base import LinkSettings
from lab.testbed.deployment import free_port
from lab.testbed.process import Process
from tests.integration.processes import start, start_worker
from tests.transport.reading import retained

PATIENCE = 60.0
BODY: dict[str, Any] = {
    "model": "base",
    "prompt": "Once upon a time",
    "temperature": 0.9,
    "seed": 7,
    "max_tokens": 1500,
}


class Device:
    """A node of one name, port and folder, in each of its lives."""

    def __init__(self, broker: PrivateBroker, draft: Path, folder: Path) -> None:
        self.port = free_port()
        self.api = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}/v1", timeout=PATIENCE)
        where = "--broker", f"{broker.host}:{broker.port}", "--api-port", str(self.port)
        self._flags = "--edge", "away", "--draft", str(draft), "--state-dir", str(folder), *where

    async def start(self) -> Process:
        process = await start("edge_node", "serve", "--ready-json", *self._flags)
        await process.event()
        return process

    async def asked(self) -> tuple[str, str]:
        """Ask for a text that is to be delivered; its number in the outbox, and what is read before all is gone."""
        text = ""
        async with self.api.stream(
            "POST", "/completions", json=BODY | {"stream": True, "offline": "deliver"}
        ) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
                if len(text) > 20:
                    break
        return reply.headers["x-flexspec-outbox"], text


async def test_a_killed_device_finds_the_answer_when_it_is_started_again(
    own_mosquitto: PrivateBroker, tiny: Path, tmp_path: Path
) -> None:
    at = LinkSettings(port=own_mosquitto.port, client_id="looks")
    worker = await start_worker(own_mosquitto, "w1", "--target", str(tiny), "--draft", "none")
    await worker.event()
    device = Device(own_mosquitto, tiny, tmp_path)
    process = await device.start()
    whole = (await device.api.post("/completions", json=BODY)).json()
    assert "choices" in whole, whole
    number, text = await device.asked()
    worker.pause()  # or it might be the quicker one
    await process.kill()
    worker.resume()
    async with asyncio.timeout(PATIENCE):
        while not await retained(at, topics.delivery_filter("away")):
            pass
    process = await device.start()
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while (found := (await device.api.get(f"/outbox/{number}")).json())["state"] != "done":
            pass
    assert time.monotonic() - began < 5.0  # some 0.1 s on a machine of its own
    assert found["text"] == whole["choices"][0]["text"]
    assert found["text"].startswith(text)
    async with asyncio.timeout(PATIENCE):
        while await retained(at, topics.delivery_filter("away")):
            pass
    await process.kill()
    await worker.kill()
    await device.api.aclose()
