"""``flexspec-edge serve`` and ``flexspec-cloud --metrics-port`` as processes, as an integrator starts them."""

from __future__ import annotations

import re
import signal
import socket
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from tests.integration.processes import PATIENCE, Process, start_worker

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

LONG = "Here is a list of rivers: " + ", ".join(f"river number {number}" for number in range(60))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def figures(http: httpx2.AsyncClient, port: int) -> dict[str, float]:
    text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) ([-+.\w]+)$", text, re.MULTILINE)
    }


async def test_a_conversation_over_http_reads_only_what_is_new(own_mosquitto: PrivateBroker) -> None:
    watch = free_port()
    worker = await start_worker(own_mosquitto, "w1", "--metrics-port", str(watch))
    edge = await Process.start(
        *("edge_node", "serve", "--broker", f"127.0.0.1:{own_mosquitto.port}", "--edge", "e1"),
        *("--api-port", "0", "--ready-json"),
    )
    try:
        await worker.line(lambda line: bool(line.get("ready")))
        ready = await edge.line(lambda line: bool(line.get("ready")))
        async with (
            httpx2.AsyncClient(timeout=PATIENCE) as http,
            AsyncOpenAI(base_url=f"http://127.0.0.1:{ready['port']}/v1", api_key="none") as client,
        ):
            assert (await http.get(f"http://127.0.0.1:{watch}/readyz")).status_code == 200
            turns: list[Any] = [{"role": "user", "content": LONG}]
            first = await client.chat.completions.create(
                model="base",
                messages=turns,
                temperature=0,
                max_tokens=12,
            )
            answer = first.choices[0].message.content
            assert answer
            assert first.usage is not None
            turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And the sea?"}]
            second = await client.chat.completions.create(
                model="base",
                messages=turns,
                temperature=0,
                max_tokens=12,
            )
            assert second.usage is not None
            assert second.usage.prompt_tokens > first.usage.prompt_tokens
            sent = [usage.model_extra["flexspec"]["bytes_up"] for usage in (first.usage, second.usage)]  # type: ignore[index]
            assert sent[1] < sent[0]  # the first prompt went once
            seen = await figures(http, watch)
            assert seen["flexspec_worker_prefix_hits_total"] == 1
            assert seen["flexspec_worker_tokens_total"] >= first.usage.completion_tokens
        for process in (edge, worker):
            process.signal(signal.SIGTERM)
        assert (await edge.end())[0] == 0
        assert (await worker.end())[0] == 0
    finally:
        await edge.kill()
        await worker.kill()
