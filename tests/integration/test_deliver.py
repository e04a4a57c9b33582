"""A device is away while its answer is written: real daemons, over HTTP."""

import asyncio
import json
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
from tests.transport.proxy import proxy_to
from tests.transport.reading import retained

PATIENCE = 60.0
BODY: dict[str, Any] = {
    "model": "base",
    "prompt": "Once upon a time",
    "temperature": 0.9,
    "seed": 7,
    "max_tokens": 300,
    "ignore_eos": True,
}


@pytest.mark.timeout(600)
async def test_a_device_that_was_killed_finds_the_answer_that_was_written_meanwhile(
    own_mosquitto: PrivateBroker, tiny: Path, tmp_path: Path
) -> None:
    """A node of one name, port and folder in each of its incarnations, whose way to its broker can be cut."""
    broker, port = own_mosquitto, free_port()
    async with (
        proxy_to(broker.host, broker.port) as link,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=PATIENCE) as api,
    ):

        async def started() -> Process:
            where = (
                "--broker",
                f"127.0.0.1:{link.port}",
                "--api-port",
                str(port),
                "--state-dir",
                str(tmp_path),
            )
            own = "--edge", "away", "--draft", str(tiny), "--ready-json"
            process = await start("edge_node", "serve", *own, *where)
            await process.event()
            return process

        async def kept() -> dict[str, bytes]:
            """Answers at the broker."""
            client = LinkSettings(port=broker.port, client_id="looks")
            return await retained(client, topics.delivery_filter("+"))

        worker = await start_worker(broker, "w1", "--target", str(tiny), "--draft", "none")
        await worker.event()
        node = await started()
        whole, text = (await api.post("/completions", json=BODY)).json()["choices"][0]["text"], ""
        body = BODY | {"stream": True, "offline": "deliver"}
        async with api.stream("POST", "/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
                if len(text) > 20:
                    break
        worker.pause()  # or it might be the quicker one
        await node.kill()
        link.stall()
        link.cut()
        worker.resume()
        async with asyncio.timeout(PATIENCE):
            while not await kept():  # noqa: ASYNC110  the broker tells nobody
                await asyncio.sleep(0.1)
        link.resume()
        node = await started()
        found: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE):
            while found.get("state") != "done":
                await asyncio.sleep(0.1)
                found = (await api.get(f"/outbox/{reply.headers['x-flexspec-outbox']}")).json()
        assert found["text"] == whole
        assert found["text"].startswith(text)
        assert len((await api.get("/outbox")).json()["data"]) == 1
        async with asyncio.timeout(PATIENCE):
            while await kept():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await node.kill()
        await worker.kill()
