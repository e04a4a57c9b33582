"""Answers over HTTP, through a real broker: what the official client gets is what the target alone writes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from flexspec_mq.protocol.edge.types import EdgeEvent, EdgeState
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import expected, ids_of, served, shown, tokenizer


def text_of(prompt: str, seed: int, limit: int) -> tuple[str, int, str]:
    """Text, tokens and finish reason that a chat with one turn must give."""
    tokens, end = expected(ids_of(prompt), seed, limit)
    return shown(tokens), len(tokens), "stop" if end == "eos" else "length"


async def streamed(client: AsyncOpenAI, **asked: Any) -> tuple[str, list[Any]]:
    """The text of a stream, and its chunks."""
    chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **asked)]
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


def user(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


async def test_a_chat_with_the_official_client(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        for seed, limit in ((1, 40), (2, 400), (3, 400), (4, 1)):
            text, count, reason = text_of("hello", seed, limit)
            asked = {"model": api.version, "messages": user("hello"), "seed": seed, "max_tokens": limit}
            answer = await api.client.chat.completions.create(**asked)  # type: ignore[call-overload]
            assert answer.choices[0].message.content == text
            assert answer.choices[0].finish_reason == reason
            assert answer.model == api.version
            assert answer.usage.prompt_tokens == len(ids_of("hello"))
            assert answer.usage.completion_tokens == count
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + count
            stream, chunks = await streamed(api.client, **asked, stream_options={"include_usage": True})
            assert stream == text
            assert chunks[0].choices[0].delta.role == "assistant"
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == reason
            assert chunks[-1].usage.completion_tokens == count
            assert all(chunk.usage is None for chunk in chunks[:-1])
            assert len({chunk.id for chunk in chunks}) == 1


async def test_completions(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        ids = tokenizer().encode("the end")
        tokens, _ = expected(ids, 3, 30, ignore_eos=True)
        for prompt in ("the end", ["the end"], list(ids), [list(ids)]):
            asked: dict[str, Any] = {"model": api.version, "prompt": prompt, "seed": 3, "max_tokens": 30}
            asked["extra_body"] = {"ignore_eos": True}
            answer = await api.client.completions.create(**asked)
            assert answer.choices[0].text == shown(tokens)
            assert answer.choices[0].finish_reason == "length"
            stream = await api.client.completions.create(**asked, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == shown(tokens)
        short = await api.client.completions.create(
            model=api.version, prompt="x", seed=1, extra_body={"ignore_eos": True}
        )
        assert short.usage is not None
        assert short.usage.completion_tokens == 16


async def test_events_without_a_row_are_counted_while_a_text_is_written_and_afterwards(
    mosquitto: PrivateBroker,
) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with served(mosquitto, engine=engine) as api:
        asking = asyncio.create_task(api.chat(max_tokens=5))
        await until(lambda: api.node.sessions == 1)
        (generation,) = api.node._sessions.values()
        generation.machine.surprises[EdgeState.NEW, EdgeEvent.DRAFTED] += 1  # as the table does
        assert await api.metric("flexspec_edge_surprises_total") == 1
        engine.gate.set()
        assert (await asking).status_code == 200
        assert await api.metric("flexspec_edge_surprises_total") == 1


async def test_energy_is_told_and_summed_where_it_is_wanted(mosquitto: PrivateBroker) -> None:
    source = "modelled: phone-5g by 5g-nsa"
    async with served(mosquitto, energy="phone-5g") as api:
        answers = [(await api.chat(seed=seed, max_tokens=20, ignore_eos=True)).json() for seed in (1, 2)]
        told = [answer["usage"]["flexspec"] for answer in answers]
        assert {one["energy_source"] for one in told} == {source}
        assert all(one["energy_j"] > 0 for one in told)
        assert all(one["energy_j_per_100"] == pytest.approx(5 * one["energy_j"]) for one in told)
        summed = await api.metric(f'flexspec_edge_energy_joules_total{{source="{source}"}}')
        assert summed == pytest.approx(sum(one["energy_j"] for one in told))
    async with served(mosquitto) as api:
        told = (await api.chat(seed=1, max_tokens=5)).json()["usage"]["flexspec"]
        assert (told["energy_j"], told["energy_j_per_100"], told["energy_source"]) == (None, None, "none")


async def test_the_figures_of_a_text(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        answer = (await api.chat(seed=9, max_tokens=60, ignore_eos=True)).json()
        ours = answer["usage"]["flexspec"]
        assert ours["version"] == api.version
        assert ours["seed"] == 9
        assert ours["exactness"] == "exact"
        assert ours["weights"] == "native"
        assert 0 < ours["accepted"] <= ours["drafted"]
        assert 0 < ours["rounds"] <= 60
        assert ours["accepted"] + ours["rounds"] >= 60  # each round gives one token of the target's own
        assert min(ours["bytes_up"], ours["bytes_down"]) > 60
        assert await api.metric("flexspec_edge_rounds_total") == ours["rounds"]
        assert await api.metric("flexspec_edge_drafted_tokens_total") == ours["drafted"]
        assert await api.metric("flexspec_edge_accepted_tokens_total") == ours["accepted"]
        assert await api.metric('flexspec_edge_bytes_total{way="up"}') == ours["bytes_up"]
        assert await api.metric('flexspec_edge_tokens_total{kind="completion"}') == 60
        assert await api.metric("flexspec_edge_first_token_seconds_count") == 1
        assert await api.metric("flexspec_edge_token_seconds_count") == ours["rounds"] - 1
        assert await api.metric('flexspec_edge_texts_total{outcome="length"}') == 1
        assert await api.metric("flexspec_edge_link_up") == 1
        assert await api.metric("flexspec_edge_surprises_total") == 0
        path = 'flexspec_edge_requests_total{endpoint="/v1/chat/completions",status="200"}'
        assert await api.metric(path) == 1


async def test_a_session_ends_with_the_last_token_of_a_stop_string(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        tokens, _ = expected(ids_of("hello"), 11, 300, ignore_eos=True)
        whole = shown(tokens)
        at = next(i for i in range(40, 200) if "\N{REPLACEMENT CHARACTER}" not in whole[i : i + 4])
        stop = whole[at : at + 4]  # a token has at most two characters
        answer = (await api.chat(seed=11, max_tokens=300, stop=["never this", stop], ignore_eos=True)).json()
        choice, used = answer["choices"][0], answer["usage"]["completion_tokens"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")
        assert stop in shown(tokens[:used])
        assert stop not in shown(tokens[: used - 1])


async def test_same_seed_same_text(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        answers = [(await api.chat(seed=seed, max_tokens=40)).json() for seed in (1, 1, 2)]
        first, again, other = (answer["choices"][0]["message"]["content"] for answer in answers)
        assert first == again != other
        drawn = [(await api.chat(max_tokens=40)).json()["usage"]["flexspec"]["seed"] for _ in range(2)]
        assert drawn[0] != drawn[1]
        assert max(drawn) < 2**53  # exact in JSON for everybody
        repeated = (await api.chat(max_tokens=40, seed=drawn[0])).json()
        assert repeated["usage"]["flexspec"]["seed"] == drawn[0]


async def test_many_at_once(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, workers=2) as api:
        answers = await asyncio.gather(*(api.chat(f"q{n % 10}", seed=n, max_tokens=30) for n in range(40)))
        for n, answer in enumerate(answers):
            assert answer.json()["choices"][0]["message"]["content"] == text_of(f"q{n % 10}", n, 30)[0]
        assert api.node.sessions == 0


async def test_probes(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        assert (await api.http.get(f"{api.url}/healthz")).status_code == 200
        assert (await api.http.get(f"{api.url}/readyz")).json() == {"status": "ready"}
        api.daemons[0].worker.stop()
        await asyncio.wait([api.daemons[0].run])
        await until(lambda: api.version not in api.node.directory.versions())
        answer = await api.http.get(f"{api.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["reason"] == f"no worker of {api.version} is known to be online"
