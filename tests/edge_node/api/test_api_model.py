"""The API with the default model, its draft and a worker as a process, as a user has them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from edge_node.api.server import serve_node
from edge_node.api.settings import ApiSettings
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.drafting.load import load as load_draft
from flexspec_mq.models.text import Turn, decode, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from tests.daemons import read
from tests.integration.processes import PATIENCE, start_worker, status

pytestmark = [pytest.mark.model, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

SKY = "Why is the sky blue? Answer in two sentences."
PLAN = Plan(draft_length=4, in_flight=1, qos=1)
VERSION = f"api-{os.getpid()}"
WORKER = f"api-worker-{os.getpid()}"
LONG = "Here is a list of rivers: " + ", ".join(f"river number {number}" for number in range(60))


@pytest.fixture(scope="module")
def draft() -> DraftModel:
    return load_draft(EdgeSettings(edge="api"), lambda _: None)


@pytest.fixture(scope="module")
def watched() -> int:
    """Port on which the worker serves its figures; chosen right before it starts."""
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    mosquitto: PrivateBroker, draft: DraftModel, watched: int
) -> AsyncIterator[tuple[EdgeNode, str]]:
    """A node with its API; the node and the API's address."""
    worker = await start_worker(mosquitto, WORKER, "--version", VERSION, "--metrics-port", str(watched))
    try:
        await status(mosquitto, WORKER, lambda found: found.state == "online")
        async with api_of(mosquitto, draft) as found:
            yield found
    finally:
        await worker.kill()


@asynccontextmanager
async def api_of(broker: PrivateBroker, draft: DraftModel) -> AsyncIterator[tuple[EdgeNode, str]]:
    edge = EdgeSettings(edge=f"api-{os.getpid()}", version=VERSION)
    node = EdgeNode(edge, draft.drafter, draft.loaded.fingerprint, draft.loaded.eos)
    base = LinkSettings(port=broker.port, client_id=f"e-{edge.edge}")
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        serve_node(
            node, draft.loaded, mqtt_link, base, policy=lambda: FixedPolicy(PLAN),
            settings=ApiSettings(api_port=0), started=port.set_result,
        )
    )  # fmt: skip
    try:
        yield node, f"http://127.0.0.1:{await asyncio.wait_for(port, PATIENCE)}/v1"
    finally:
        run.cancel()
        await asyncio.wait([run], timeout=PATIENCE)


async def alone(node: EdgeNode, draft: DraftModel, turns: list[Turn], seed: int, temperature: float) -> str:
    """What the node writes without the API; test_exactness compares that with the target alone."""
    request = GenerationRequest(
        prompt=encode_turns(draft.loaded.tokenizer, turns, max_context=draft.loaded.max_context),
        sampling=SamplingParams(temperature, 0, 0.9, seed),
        limit=16,
        policy=FixedPolicy(Plan(0, 1, 1)),
    )
    tokens, _ = await read(node.generate(request))
    return decode(draft.loaded.tokenizer, tokens)


async def test_several_turns_are_those_of_the_node(running: tuple[EdgeNode, str], draft: DraftModel) -> None:
    node, url = running
    turns: list[Turn] = []
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for seed, said in enumerate((SKY, "And why is it red in the evening?")):
            turns.append(Turn("user", said))
            messages: Any = [{"role": turn.role, "content": turn.content} for turn in turns]
            asked: dict[str, Any] = {
                "model": VERSION, "messages": messages, "seed": seed, "top_p": 0.9, "max_tokens": 16,
                "temperature": 1, "extra_body": {"top_k": 0},
            }  # fmt: skip
            answer = await client.chat.completions.create(**asked)
            content = answer.choices[0].message.content
            assert content == await alone(node, draft, turns, seed, 1.0)
            stream = await client.chat.completions.create(**asked, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == content
            assert answer.usage is not None
            assert answer.usage.completion_tokens <= 16
            turns.append(Turn("assistant", content or ""))
    assert answer.usage.model_extra is not None
    assert answer.usage.model_extra["flexspec"]["exactness"] == "exact"
    assert answer.usage.model_extra["flexspec"]["drafted"] > 0


async def figures(http: httpx2.AsyncClient, port: int) -> dict[str, float]:
    """What the worker serves for Prometheus."""
    text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {
        name: float(value)
        for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) ([-+.\w]+)$", text, re.MULTILINE)
    }


async def test_a_conversation_reads_only_what_is_new(running: tuple[EdgeNode, str], watched: int) -> None:
    _, url = running
    async with (
        httpx2.AsyncClient(timeout=PATIENCE) as http,
        AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        assert (await http.get(f"http://127.0.0.1:{watched}/readyz")).status_code == 200
        before = await figures(http, watched)
        turns: list[Any] = [{"role": "user", "content": LONG}]
        asked: dict[str, Any] = {"model": VERSION, "messages": turns, "temperature": 0, "max_tokens": 12}
        first = await client.chat.completions.create(**asked)
        answer = first.choices[0].message.content
        assert answer
        turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And the sea?"}]
        second = await client.chat.completions.create(**asked)
        assert second.usage.prompt_tokens > first.usage.prompt_tokens
        sent = [one.usage.model_extra["flexspec"]["bytes_up"] for one in (first, second)]
        assert sent[1] < sent[0]  # the first prompt went once
        now = await figures(http, watched)
    hits, tokens = (
        now[name] - before[name]
        for name in ("flexspec_worker_prefix_hits_total", "flexspec_worker_tokens_total")
    )
    assert hits == 1
    assert tokens >= first.usage.completion_tokens
