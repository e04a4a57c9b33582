"""A model of the device's own: it stands in for a target of another vocabulary, and writes what must not leave."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from openai.types.chat import ChatCompletionChunk

from broker.launcher import PrivateBroker
from edge_node.cli.texts import offline_events
from edge_node.limits import BatteryGauge
from edge_node.outbox.journal import Journal
from edge_node.text.spec import TextSpec
from edge_node.text.texts import TextBounds
from flexspec_mq.drafting.load import DraftModel, load
from flexspec_mq.drafting.memory import AnswerMemory
from flexspec_mq.drafting.settings import DraftSettings
from flexspec_mq.energy.meters import Batteries
from flexspec_mq.models.text import Turn
from flexspec_mq.telemetry import EDGE
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import FINGERPRINT
from schemas.messages import PartialSampling
from schemas.openai import LOCAL_ONLY, Provisional, unconfirmed
from tests.daemons import FakeDrafter, until
from tests.edge_node.api.served import Served, alone, content, said, served
from tests.edge_node.api.test_outages import LONG, away, behind_a_link, cut_while_written
from tests.edge_node.api.test_traces import Recorded
from tests.edge_node.asking.asked import Asker, asked

SKY = "Why is the sky blue?"
LOCAL: dict[str, Any] = {"offline": LOCAL_ONLY, "temperature": 0, "max_tokens": 12}


@cache
def voice() -> DraftModel:
    """The draft that ships, as a model of its own: its vocabulary is not that of the tests' target."""
    return load(DraftSettings(lookup=False), lambda _: None)


async def test_it_stands_in_for_a_target_of_another_vocabulary_and_steps_back(
    mosquitto: PrivateBroker,
) -> None:
    async with behind_a_link(mosquitto, local=voice()) as (api, link):
        cutting = asyncio.create_task(cut_while_written(api, link))
        text = provisional = longest = ""
        took = dict[str, Any]()
        async for chunk in await api.client.chat.completions.create(
            model=api.version,
            messages=[{"role": "user", "content": SKY}],
            stream=True,
            stream_options={"include_usage": True},
            **{**LONG, "extra_body": {"ignore_eos": True, "offline": "provisional"}},
        ):
            assert isinstance(chunk, ChatCompletionChunk)
            if chunk.usage is not None:
                took = (chunk.usage.model_extra or {})["flexspec"]
                continue
            delta = chunk.choices[0].delta.content or ""
            text, provisional = text + delta, unconfirmed(provisional, delta)
            if change := (chunk.model_extra or {}).get("flexspec", {}).get("provisional"):
                provisional = Provisional(**change).applied(provisional)
            longest = max(longest, provisional, key=len)
        await cutting
        assert (text, provisional) == (alone(SKY, 3, 400, ignore_eos=True), "")
        assert longest
        assert took["local"] == voice().text.name
        assert took["provisional"] > 0
        assert took["provisional_confirmed"] == 0


@pytest.mark.parametrize("wait", [None, 3.0])
async def test_who_begins_where_nobody_can_be_reached_has_its_text_alone(
    mosquitto: PrivateBroker, wait: float | None
) -> None:
    async with away(mosquitto, local=voice()) as api:
        more: dict[str, Any] = {} if wait is None else {"wait": wait}
        answer = (await api.chat(SKY, max_tokens=30, offline="provisional", seed=3, **more)).json()
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "provisional"
        assert not choice["message"]["content"]
        assert "sky" in choice["flexspec"]["provisional"]["text"]
        figures = answer["usage"]["flexspec"]
        assert figures["local"] == voice().text.name
        assert 0 < figures["provisional"] <= 30
        assert figures["provisional_stopped"]


async def test_a_device_that_has_never_seen_a_worker_has_its_text_alone(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, workers=0, local=voice(), known=False) as api:
        answer = (await api.chat(SKY, max_tokens=20, offline="provisional")).json()
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "provisional"
        assert "sky" in choice["flexspec"]["provisional"]["text"]
        assert answer["usage"]["flexspec"]["local"] == voice().text.name
        said(await api.chat(SKY, max_tokens=20), 503, "no_worker")


async def test_it_writes_nothing_where_the_battery_is_low(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    (supply := tmp_path / "BAT0").mkdir()
    for name, value in {
        "type": "Battery",
        "capacity": 9,
        "status": "Discharging",
        "energy_now": 10**7,
    }.items():
        (supply / name).write_text(f"{value}\n")
    async with away(mosquitto, local=voice()) as api:
        api.node._battery = BatteryGauge(Batteries(tmp_path), 0.1)
        said(await api.chat(SKY, offline="provisional", max_tokens=20, wait=2.0), 503, "broker_unreachable")
        assert "battery" in said(await api.chat(SKY, **LOCAL), 400, "invalid_value")["message"]


@asynccontextmanager
async def overheard(broker: PrivateBroker) -> AsyncIterator[list[Inbound]]:
    """All that is said at the broker."""
    told: list[Inbound] = []
    settings = LinkSettings(port=broker.port, client_id="overhears", subscriptions=(Subscription("#"),))
    async with mqtt_link(settings) as link:
        await link.wait_up()

        async def listen() -> None:
            async for event in link.events():
                if isinstance(event, Inbound) and not event.retain:
                    told.append(event)  # noqa: PERF401  while it goes on

        task = asyncio.create_task(listen())
        yield told
        task.cancel()


async def ask_all_apis(api: Served) -> list[str]:
    """The answers of all APIs to a question that must not leave the device, named by mode or by model."""
    turns = [{"role": "user", "content": SKY}]
    chat = await api.chat(SKY, {"idempotency-key": "sky"}, **LOCAL)
    assert chat.json()["model"] == LOCAL_ONLY
    assert chat.json()["choices"][0]["finish_reason"] == "length"
    assert chat.json()["usage"]["flexspec"]["local"] == voice().text.name
    options = {"temperature": 0, "num_predict": 12}
    ollama = {"model": f"{LOCAL_ONLY}:latest", "messages": turns, "stream": False, "options": options}
    response = {"model": LOCAL_ONLY, "input": SKY, "temperature": 0, "max_output_tokens": 12}
    streamed = await api.post(
        "/v1/chat/completions",
        {"model": LOCAL_ONLY, "messages": turns, "stream": True, **LOCAL},
    )
    deltas = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    return [
        content(chat),
        (await api.post("/api/chat", ollama)).json()["message"]["content"],
        (await api.post("/v1/responses", response)).json()["output"][0]["content"][0]["text"],
        "".join(each["choices"][0]["delta"].get("content") or "" for each in deltas),
    ]


async def test_nothing_of_a_request_that_must_not_leave_the_device_leaves_it(
    own_mosquitto: PrivateBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge, folder = Recorded(EDGE), tmp_path / "answers"
    caplog.set_level("DEBUG")
    memory = AnswerMemory(folder, "here")
    journal = Journal(tmp_path / "outbox.sqlite", TextBounds().bounds)
    async with (
        served(own_mosquitto, local=voice(), memory=memory, journal=journal) as api,
        overheard(own_mosquitto) as told,
    ):
        api.node.telemetry = edge.telemetry
        (answer,) = set(await ask_all_apis(api))
        assert "sky" in answer
        assert not [each.topic for each in told if "/o/" in each.topic or "/d/" in each.topic], told
        assert not edge.spans
        assert not list(folder.glob("*"))
        assert answer.strip() not in caplog.text
        assert SKY not in caplog.text
        again = await api.chat(SKY, {"idempotency-key": "sky"}, **LOCAL)
        assert content(again) == answer
        before = len(told)
        await api.chat(SKY, seed=3, max_tokens=5)
        await until(lambda: len(told) > before)
        assert edge.spans


async def test_a_response_that_stayed_here_is_gone_on_from_here_alone(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, local=voice()) as api:
        body = {"temperature": 0, "max_output_tokens": 5}
        first = (await api.post("/v1/responses", {"model": LOCAL_ONLY, "input": SKY, **body})).json()
        next_one = {"previous_response_id": first["id"], "input": "And at night?", **body}
        refused = await api.post("/v1/responses", {"model": api.version, **next_one})
        assert "must not leave" in said(refused, 400, "invalid_value")["message"]
        item = {"type": "item_reference", "id": first["output"][0]["id"]}
        refused = await api.post("/v1/responses", {"model": api.version, "input": [item], **body})
        assert "must not leave" in said(refused, 400, "invalid_value")["message"]
        assert (await api.post("/v1/responses", {"offline": LOCAL_ONLY, **next_one})).status_code == 200


async def test_it_is_listed_where_there_is_one_and_refused_where_there_is_none(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, local=voice()) as api, served(mosquitto) as other:
        for node, there in ((api, True), (other, False)):
            models = [each["id"] for each in (await node.get("/v1/models")).json()["data"]]
            tags = [each["name"] for each in (await node.get("/api/tags")).json()["models"]]
            assert (LOCAL_ONLY in models, f"{LOCAL_ONLY}:latest" in tags) == (there, there)
        shown = (await api.post("/api/show", {"model": LOCAL_ONLY})).json()
        assert shown["model_info"]["flexspec.context_length"] == voice().text.max_context
        error = said(await other.chat(SKY, **LOCAL), 400, "invalid_value")
        assert "--local MODEL" in error["message"]


async def test_an_ask_by_mqtt_has_left_the_device_already(mosquitto: PrivateBroker) -> None:
    async with asked(mosquitto, local=voice()) as node, Asker(mosquitto) as asker:
        for more in ({"offline": LOCAL_ONLY}, {"model": LOCAL_ONLY}):
            await asker.publish(f"f1/ask/{node.edge}", {"prompt": SKY, **more})
            _, answer, _, _ = await asker.message()
            assert "MQTT" in answer["error"]["message"]


async def test_a_command_is_answered_here_as_well(mosquitto: PrivateBroker) -> None:
    spec = TextSpec(prompt=(Turn("user", SKY),), sampling=PartialSampling(temperature=0), limit=12)
    async with served(mosquitto, workers=0, local=voice(), known=False) as api:
        for mode, reason in ((LOCAL_ONLY, "length"), ("provisional", "provisional")):
            asked = replace(spec, offline=mode)
            events = [event async for event in offline_events(api.api.texts, asked)]
            assert (events[0]["type"], events[-1]["reason"]) == ("start", reason)
            shown = [event for event in events if event["type"] in ("text", "provisional")]
            assert "sky" in events[-1]["text"] + shown[-1].get("text", "")


async def test_where_it_is_the_draft_what_is_right_is_committed(mosquitto: PrivateBroker) -> None:
    own = voice().own
    assert own is not None
    same = dataclasses.replace(voice(), own=dataclasses.replace(own, fingerprint=FINGERPRINT))
    async with behind_a_link(mosquitto, local=same, edge={"local": "default"}, drafter=FakeDrafter(1.0)) as (
        api,
        link,
    ):
        cutting = asyncio.create_task(cut_while_written(api, link))
        answer = await api.chat(SKY, seed=3, max_tokens=400, ignore_eos=True, offline="provisional")
        await cutting
        assert content(answer) == alone(SKY, 3, 400, ignore_eos=True)
        figures = answer.json()["usage"]["flexspec"]
        assert figures["provisional_confirmed"] == figures["provisional"] > 0
        assert figures["local"] == ""
