"""The same seed gives the same text, by every endpoint, whatever the plan and whatever the link."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from flexspec_mq.controller.plan import Plan
from lab.testbed.link.proxy import proxy_link
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
