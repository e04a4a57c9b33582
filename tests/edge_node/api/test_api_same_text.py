"""The same seed gives the same text, by every endpoint, whatever the plan and whatever the link."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from flexspec_mq.controller.plan import Plan
from lab.testbed.link.proxy import proxy_link
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import expected, ids_of, served, shown, tokenizer

PLANS = {
    "none": Plan(draft_length=0, in_flight=1, qos=1),
    "short": Plan(draft_length=1, in_flight=1, qos=0),
    "long": Plan(draft_length=16, in_flight=1, qos=2),
    "many in flight": Plan(draft_length=4, in_flight=8, qos=1),
    "ahead": Plan(draft_length=4, in_flight=2, qos=1, ahead=32),
    "streaming": Plan(draft_length=0, in_flight=1, qos=1, ahead=64),
}
ENDLESS = {"ignore_eos": True}


async def everything(client: AsyncOpenAI, version: str) -> None:
    """Both endpoints, streaming and not, with and without a stop string: the target's own text each time."""
    for seed in (1, 2):
        tokens, _ = expected(ids_of("hello"), seed, 48, ignore_eos=True)
        chat: dict[str, Any] = {
            "model": version, "messages": [{"role": "user", "content": "hello"}], "seed": seed, "max_tokens": 48,
            "extra_body": ENDLESS,
        }  # fmt: skip
        whole = shown(tokens)
        assert (await client.chat.completions.create(**chat)).choices[0].message.content == whole
        stream = await client.chat.completions.create(**chat, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == whole
        written, _ = expected(tokenizer().encode("the end"), seed, 48, ignore_eos=True)
        text = shown(written)
        # Longer than any token, so that it begins in one and ends in another.
        at = next(i for i in range(8, 40) if "\N{REPLACEMENT CHARACTER}" not in text[i : i + 4])
        stop = text[at : at + 4]
        plain: dict[str, Any] = {
            "model": version, "prompt": "the end", "seed": seed, "max_tokens": 48, "extra_body": ENDLESS,
        }  # fmt: skip
        assert (await client.completions.create(**plain)).choices[0].text == text
        cut = (await client.completions.create(**plain, stop=stop)).choices[0]
        assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")
        parts = [one async for one in await client.completions.create(**plain, stop=stop, stream=True)]
        assert "".join(one.choices[0].text for one in parts) == cut.text
        assert parts[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
async def test_with_any_plan(mosquitto: PrivateBroker, plan: Plan) -> None:
    async with served(mosquitto, plan=plan) as api:
        await everything(api.client, api.version)


@pytest.mark.parametrize("plan", [PLANS["many in flight"], PLANS["ahead"]], ids=["drafts", "ahead"])
async def test_over_an_emulated_link(mosquitto: PrivateBroker, plan: Plan) -> None:
    async with proxy_link("4g", ("127.0.0.1", mosquitto.port)) as link:
        async with served(mosquitto, plan=plan, through=link.port) as api:
            await everything(api.client, api.version)
        assert link.counters.up.packets_in > 50


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_that_is_cancelled_is_cancelled_up_to_the_worker(
    mosquitto: PrivateBroker, stream: bool
) -> None:
    async with served(mosquitto) as api:
        asked: dict[str, Any] = {
            "model": api.version, "prompt": "x", "max_tokens": 40_000, "extra_body": ENDLESS, "stream": stream,
        }  # fmt: skip
        asking = asyncio.create_task(api.client.completions.create(**asked))
        await until(lambda: api.daemons[0].kept == 1)
        if stream:
            await (await asking).close()
        else:
            asking.cancel()
        await until(lambda: api.node.sessions == 0 and api.daemons[0].kept == 0)
        assert api.daemons[0].worker.machine.counters.closed == 1


async def test_errors_as_the_official_client_raises_them(mosquitto: PrivateBroker) -> None:
    """The ones that test_api_errors reads as plain HTTP."""
    engine = FakeEngine()
    async with served(mosquitto, engine=engine, api_texts=1, max_body=4000, api_key="hush") as api:

        async def refused(status: int, code: str, kind: type[openai.APIStatusError], **more: Any) -> None:
            asked: dict[str, Any] = {"model": api.version, "prompt": "x", "max_tokens": 3} | more
            client = asked.pop("client", api.client)
            with pytest.raises(kind) as raised:
                await client.completions.create(**asked)
            assert (raised.value.status_code, raised.value.code) == (status, code)

        await refused(400, "invalid_value", openai.BadRequestError, temperature=3)
        await refused(400, "unknown_parameter", openai.BadRequestError, extra_body={"what": 1})
        await refused(
            401, "invalid_api_key", openai.AuthenticationError, client=api.client.with_options(api_key="no")
        )
        evil = {"host": "evil.example"}
        await refused(403, "wrong_host", openai.PermissionDeniedError, extra_headers=evil)
        await refused(404, "model_not_found", openai.NotFoundError, model="gone")
        await refused(413, "body_too_long", openai.APIStatusError, prompt="x" * 5000)
        key = {"Idempotency-Key": "k"}
        await api.client.completions.create(model=api.version, prompt="x", max_tokens=3, extra_headers=key)
        await refused(
            422, "idempotency_key_reused", openai.UnprocessableEntityError, prompt="y", extra_headers=key
        )
        engine.gate.clear()
        first = asyncio.create_task(
            api.client.completions.create(model=api.version, prompt="x", max_tokens=3)
        )
        await until(lambda: len(api.api.texts) == 1)
        await refused(429, "too_many_texts", openai.RateLimitError)
        engine.gate.set()
        await first
    async with served(mosquitto, workers=0, give_up=0.5) as api:
        with pytest.raises(openai.InternalServerError) as raised:
            await api.client.completions.create(model=api.version, prompt="x")
        assert (raised.value.status_code, raised.value.code) == (503, "no_worker")
