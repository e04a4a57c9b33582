"""Answers over HTTP, through a real broker: the client gets the target's text, as the OpenAPI document says."""

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from openai import AsyncOpenAI

from broker.launcher import PrivateBroker
from edge_node.text.machine import Text
from edge_node.text.spec import TextSpec
from flexspec_mq.controller.plan import Plan
from flexspec_mq.protocol.edge.types import EdgeCounters, EdgeEvent, EdgeState
from lab.testbed.link.proxy import proxy_link
from schemas.openapi import document
from tests.daemons import until
from tests.edge_node.api.served import (
    alone,
    content,
    events,
    expected,
    ids_of,
    served,
    shown,
    tokenizer,
    waiting_engine,
)
from tests.schemas.json_schema import problem


async def streamed(client: AsyncOpenAI, **asked: Any) -> tuple[str, list[Any]]:
    """The text of a stream, and its chunks."""
    chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **asked)]
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


async def test_a_chat_with_the_official_client(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        for seed, limit in ((1, 40), (2, 400), (3, 400), (4, 1)):
            tokens, end = expected(ids_of("hello"), seed, limit)
            text, count, reason = shown(tokens), len(tokens), "stop" if end == "eos" else "length"
            messages = [{"role": "user", "content": "hello"}]
            asked = {"model": api.version, "messages": messages, "seed": seed, "max_tokens": limit}
            answer = await api.client.chat.completions.create(**asked)  # type: ignore[call-overload]
            assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text, reason)
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


async def test_an_answer_goes_on(mosquitto: PrivateBroker) -> None:
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the end"}]
    ids = tokenizer().encode("user.hello,assistant.the end")
    text = shown(expected(ids, 5, 20)[0])
    asked: dict[str, Any] = {"messages": before, "seed": 5, "max_tokens": 20}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    async with served(mosquitto) as api:
        for more in ({}, flags):
            asked |= {"model": api.version, "extra_body": more}
            answer = await api.client.chat.completions.create(**asked)
            assert (answer.choices[0].message.content, answer.usage.prompt_tokens) == (text, len(ids))
            assert (await streamed(api.client, **asked))[0] == text
        body = {"model": api.version, "messages": before, "options": {"seed": 5, "num_predict": 20}}
        assert (await api.post("/api/chat", {**body, "stream": False})).json()["message"]["content"] == text


DRAFTS = Plan(draft_length=4, in_flight=8, qos=1)
RUNS_AHEAD = Plan(draft_length=0, in_flight=1, qos=1, ahead=64)
ENDLESS = {"ignore_eos": True}


async def everything(client: AsyncOpenAI, version: str) -> None:
    """Both endpoints, streaming and not, with and without a stop string: the target's own text each time."""
    for seed in (1, 2):
        chat: dict[str, Any] = {
            "model": version, "messages": [{"role": "user", "content": "hello"}], "seed": seed, "max_tokens": 48,
            "extra_body": ENDLESS,
        }  # fmt: skip
        whole = alone("hello", seed, 48, ignore_eos=True)
        assert (await client.chat.completions.create(**chat)).choices[0].message.content == whole
        stream = await client.chat.completions.create(**chat, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == whole
        ids = tokenizer().encode("the end")
        written, _ = expected(ids, seed, 48, ignore_eos=True)
        text = shown(written)
        # Longer than any token, so that it begins in one and ends in another.
        at = next(i for i in range(8, 40) if "\N{REPLACEMENT CHARACTER}" not in text[i : i + 4])
        stop = text[at : at + 4]
        plain: dict[str, Any] = {
            "model": version, "prompt": "the end", "seed": seed, "max_tokens": 48, "extra_body": ENDLESS,
        }  # fmt: skip
        for prompt in ("the end", ids):
            assert (await client.completions.create(**{**plain, "prompt": prompt})).choices[0].text == text
        answer = await client.completions.create(**plain, stop=["never this", stop])
        (cut,) = answer.choices
        assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")
        assert answer.usage is not None
        used = answer.usage.completion_tokens  # the session ends with the last token of the stop string
        assert stop in shown(written[:used])
        assert stop not in shown(written[: used - 1])
        parts = [one async for one in await client.completions.create(**plain, stop=stop, stream=True)]
        assert "".join(one.choices[0].text for one in parts) == cut.text
        assert parts[-1].choices[0].finish_reason == "stop"


async def test_the_text_is_the_targets_by_both_endpoints_also_over_an_emulated_link(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, plan=DRAFTS) as api:
        await everything(api.client, api.version)
    async with proxy_link("4g", ("127.0.0.1", mosquitto.port)) as link:
        async with served(mosquitto, plan=RUNS_AHEAD, through=link.port) as api:
            await everything(api.client, api.version)
        assert link.counters.up.packets_in > 50


async def test_events_without_a_row_are_counted_while_a_text_is_written_and_afterwards(
    mosquitto: PrivateBroker,
) -> None:
    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api:
        asking = asyncio.create_task(api.chat(max_tokens=5))
        await until(lambda: api.node.sessions == 1)
        (generation,) = api.node._sessions.values()
        generation.machine.violations[EdgeState.NEW, EdgeEvent.DRAFTED] += 1  # as the table does
        assert await api.metric("flexspec_edge:protocol_violations_total") == 1
        engine.gate.set()
        assert (await asking).status_code == 200
        assert await api.metric("flexspec_edge:protocol_violations_total") == 1


async def test_energy_is_told_and_summed_where_it_is_wanted(mosquitto: PrivateBroker) -> None:
    source = "modelled: phone-5g by 5g-nsa"
    async with served(mosquitto, energy="phone-5g") as api:
        answers = [(await api.chat(seed=seed, max_tokens=20, ignore_eos=True)).json() for seed in (1, 2)]
        told = [answer["usage"]["flexspec"] for answer in answers]
        assert {one["energy_source"] for one in told} == {source}
        assert all(one["energy_j"] > 0 for one in told)
        assert all(one["energy_j_per_100"] == pytest.approx(5 * one["energy_j"]) for one in told)
        summed = await api.metric(f'flexspec_edge:energy_joules_total{{source="{source}"}}')
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
        seen = await api.figures()
        assert seen["rounds_total"] == ours["rounds"]
        assert seen["spec_decode_num_draft_tokens_total"] >= ours["drafted"]
        accepted = seen["spec_decode_num_accepted_tokens_total"]
        assert accepted == ours["accepted"] + ours["worker_accepted"]
        by_position = [seen[f"spec_decode_num_accepted_tokens_per_pos_total/{place}"] for place in range(16)]
        assert sum(by_position) == accepted
        assert by_position == sorted(by_position, reverse=True)
        assert by_position[0] <= seen["spec_decode_num_drafts_total"] <= ours["rounds"]
        at_worker = api.daemons[0].worker.machine.counters.versions[api.version]
        assert at_worker.decided == 60
        assert 0 < at_worker.drafts.accepted <= accepted  # the others came after the target had written them
        origins = ("device", "lookup", "worker", "grammar", "target")
        wrote = {who: seen[f"generation_tokens_by_origin_total/{who}"] for who in origins}
        assert sum(wrote.values()) == seen["generation_tokens_total"] == 60
        assert wrote["device"] + wrote["lookup"] == ours["accepted"]
        assert seen["prompt_tokens_total"] == answer["usage"]["prompt_tokens"]
        assert seen["time_to_first_token_seconds_count"] == seen["e2e_request_latency_seconds_count"] == 1
        assert seen["inter_token_latency_seconds_count"] == ours["rounds"] - 1
        assert seen["request_params_max_tokens_sum"] == seen["request_generation_tokens_sum"] == 60
        assert seen["num_requests_running"] == seen["num_requests_waiting"] == 0
        assert await api.ended("length") == 1
        assert seen["request_success_total/error"] == 0  # for rates of errors before the first one
        assert await api.metric('flexspec_edge:bytes_total{way="up"}') == ours["bytes_up"]
        assert await api.metric("flexspec_edge:link_up") == 1
        assert await api.metric("flexspec_edge:protocol_violations_total") == 0
        assert await api.answers(200) == 1


async def test_figures_are_of_few_versions_and_of_none_that_clients_make_up(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, workers=0) as api:
        assert (await api.chat(model="made-up")).status_code == 404
        assert "made-up" not in (await api.get("/metrics")).text
        machine = SimpleNamespace(counters=EdgeCounters(rounds=1, committed=1), state=EdgeState.ACTIVE)
        for number in range(20):
            patience = SimpleNamespace(shown=0, confirmed=0)
            request = SimpleNamespace(prompt=(1,))
            generation = SimpleNamespace(request=request, machine=machine, patience=patience)
            writing: Any = SimpleNamespace(version=f"v{number}", generation=generation, tokens=1)
            if number == 0:
                api.api.metrics.began(Text(TextSpec(prompt="text"), name="text"), writing)
            api.api.metrics.committed(writing, 1, 0.1, first=True)
        page = (await api.get("/metrics")).text
        assert {*re.findall(r'model_name="(v\d+)"', page)} == {f"v{number}" for number in range(12, 20)}
        assert (await api.figures())["rounds_total"] == 1  # its version was forgotten, and it goes on


async def test_figures_of_a_text_are_there_while_it_is_written(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        asking = asyncio.create_task(api.chat(max_tokens=200, ignore_eos=True))
        running, rounds = set(), [0.0]
        while not asking.done():
            seen = await api.figures()
            running.add((seen["num_requests_running"], seen["num_requests_waiting"]))
            rounds.append(seen.get("rounds_total", 0.0))
        assert (await asking).status_code == 200
        assert (1, 0) in running <= {(0, 0), (0, 1), (1, 0)}
        rounds.append((await api.figures())["rounds_total"])
        assert rounds == sorted(rounds)  # it never falls, at the end of a text either
        assert len(set(rounds)) > 3


async def test_a_seed_that_was_drawn_gives_the_same_text_again(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto) as api:
        drawn = [(await api.chat(max_tokens=40)) for _ in range(2)]
        seeds = [answer.json()["usage"]["flexspec"]["seed"] for answer in drawn]
        assert seeds[0] != seeds[1]
        assert max(seeds) < 2**53  # exact in JSON for everybody
        again = await api.chat(max_tokens=40, seed=seeds[0])
        assert again.json()["usage"]["flexspec"]["seed"] == seeds[0]
        assert content(again) == content(drawn[0]) != content(drawn[1])


DOCUMENT: dict[str, Any] = json.loads(json.dumps(document()))


def fits(found: Any, name: str) -> None:
    assert not problem(found, "openapi.json", name, closed=True)
    assert problem({**found, "beside": 1}, "openapi.json", name, closed=True)
    for field in DOCUMENT["components"]["schemas"][name]["required"]:
        assert problem({**found, field: [[]]}, "openapi.json", name, closed=True)


async def test_answers_errors_and_events(mosquitto: PrivateBroker) -> None:
    options = {"include_usage": True, "include_origin": True}
    streamed: dict[str, Any] = {"stream": True, "stream_options": options, "max_tokens": 20}
    async with served(mosquitto) as api:
        fits((await api.chat(max_tokens=5)).json(), "ChatCompletion")
        chunks = events((await api.chat(**streamed)).text)
        assert len(chunks) > 3
        for chunk in chunks:
            fits(chunk, "ChatCompletionChunk")
        for chunk in events((await api.chat(max_tokens=5, stream=True)).text):
            fits(chunk, "ChatCompletionChunk")
        fits((await api.post("/v1/completions", {"prompt": "hello"})).json(), "TextCompletion")
        for chunk in events((await api.post("/v1/completions", {"prompt": "hello", **streamed})).text):
            fits(chunk, "TextCompletion")
        for path, name in (
            ("/v1/models", "ModelList"), (f"/v1/models/{api.version}", "Model"), ("/healthz", "Health"),
            ("/readyz", "Health"), ("/nowhere", "ErrorBody"), ("/v1/models/gone", "ErrorBody"),
        ):  # fmt: skip
            fits((await api.http.get(f"{api.url}{path}")).json(), name)
        fits((await api.chat(n=0)).json(), "ErrorBody")
        fits((await api.http.get(f"{api.url}/v1/completions")).json(), "ErrorBody")
        answer = await api.http.get(f"{api.url}/openapi.json")  # names the server that it comes from
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {**DOCUMENT, "servers": [{"url": "/"}]}
        path = 'flexspec_edge:http_requests_total{endpoint="/openapi.json",status="200"}'
        assert await api.metric(path) == 1
