"""An outage in the middle of an answer, as clients see it that wait, that read provisional text, and that come back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from broker.launcher import PrivateBroker
from edge_node.limits import BatteryGauge
from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import running
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.energy.meters import Batteries
from flexspec_mq.links import LINKS, LinkProfile
from schemas.openai import Provisional, unconfirmed
from tests.daemons import FakeDrafter, FakeEngine, until
from tests.edge_node.api.served import Served, alone, content, said, served, streamed
from tests.edge_node.api.test_api_events import watched

CUT = 2.5
HEARTBEAT = 0.2
LONG: dict[str, Any] = {"seed": 3, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
TEXT = alone("hello", 3, 400, ignore_eos=True)
ASKED: dict[str, Any] = {"seed": 3, "max_tokens": 120, "ignore_eos": True}


@asynccontextmanager
async def behind_a_link(broker: PrivateBroker, **more: Any) -> AsyncIterator[tuple[Served, Proxy]]:
    """A node whose link can be cut, and whose answers take seconds."""
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", broker.port)).listening() as link,
        served(
            broker,
            engine=FakeEngine(lambda _: time.sleep(0.02)),
            through=link.port,
            heartbeat=HEARTBEAT,
            **more,
        ) as api,
    ):
        yield api, link


async def cut_while_written(api: Served, link: Proxy) -> None:
    """Cut the link in the middle of the first text."""
    await until(lambda: any(view.figures and view.figures.tokens for view in api.api.texts.views()))
    link.stall(CUT)
    link.cut()


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["alone", "keyed"])
async def test_the_official_client_waits_by_comments_and_skips_what_it_does_not_know(
    mosquitto: PrivateBroker, key: dict[str, str]
) -> None:
    """Its own time for silence is shorter than the outage."""
    async with behind_a_link(mosquitto) as (api, link):
        client = api.client.with_options(timeout=10 * HEARTBEAT)
        cutting = asyncio.create_task(cut_while_written(api, link))
        text, waits = "", []
        async for chunk in await client.chat.completions.create(
            model=api.version,
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_origin": True},
            extra_headers=key,
            **LONG,
        ):
            text += chunk.choices[0].delta.content or ""
            waits += [(chunk.model_extra or {}).get("flexspec", {}).get("waiting")]
        await cutting
        assert text == TEXT
        assert any(wait and wait.startswith("waiting for the broker") for wait in waits)


@pytest.mark.parametrize("queued", [True, False], ids=["queued", "read slowly"])
async def test_the_official_client_waits_before_the_first_token(
    mosquitto: PrivateBroker, queued: bool
) -> None:
    """Comments keep it whether the node says whom the request waits for, or only that nothing has come yet."""
    async with behind_a_link(mosquitto) as (api, link):
        began = time.monotonic()
        if queued:
            link.stall(CUT)
            link.cut()
            await until(lambda: not api.node.link.is_up)
        else:
            api.daemons[0].engine.gate.clear()
            asyncio.get_running_loop().call_later(CUT, api.daemons[0].engine.gate.set)
        client, text = api.client.with_options(timeout=10 * HEARTBEAT), ""
        async for chunk in await client.chat.completions.create(
            model=api.version,
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            seed=3,
            max_tokens=40,
            extra_body={"wait": 30.0},
        ):
            text += chunk.choices[0].delta.content or ""
        assert text == alone("hello", 3, 40)
        assert time.monotonic() - began > 10 * HEARTBEAT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("under_way", [False, True], ids=["arrives", "under way"])
async def test_a_request_that_names_no_patience_waits_for_the_link(
    mosquitto: PrivateBroker, under_way: bool, stream: bool
) -> None:
    """Whether it comes while that is away, or the link goes before anybody could answer; its worker writes it once."""
    async with behind_a_link(mosquitto) as (api, link):
        counters = api.daemons[0].worker.machine.counters
        asked: dict[str, Any] = {"seed": 3, "max_tokens": 40, "stream": stream}
        if under_way:
            link.stall(60.0, ("down",))
            asking = asyncio.create_task(api.chat(**asked))
            await until(lambda: counters.opened)
        link.stall(CUT)
        link.cut()
        await until(lambda: not api.node.link.is_up)
        if not under_way:
            asking = asyncio.create_task(api.chat(**asked))
        answer = await asking
        assert answer.status_code == 200, answer.text
        assert (streamed(answer.text) if stream else content(answer)) == alone("hello", 3, 40)
        assert counters.opened == 1


async def test_nobody_is_refused_over_a_link_that_comes_and_goes(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round trips take 300 ms, and every 3 s each connection is cut and none can be had for one."""
    monkeypatch.setattr(waiting, "UNLINKED", 60.0)  # however busy the machine is

    async def flap() -> None:
        while True:
            link.stall(1.0)
            link.cut()
            await asyncio.sleep(3.0)

    async def ask(number: int) -> str:
        await asyncio.sleep(0.4 * number)
        return content(await api.chat(seed=number, max_tokens=20))

    slow = LinkProfile(trip=300.0, up=50.0, down=50.0)
    async with (
        Proxy.steady(slow, ("127.0.0.1", mosquitto.port)).listening() as link,
        served(mosquitto, through=link.port) as api,
        running(flap(), "flaps"),
    ):
        texts = await asyncio.gather(*(ask(number) for number in range(20)))
        assert texts == [alone("hello", number, 20) for number in range(20)]


@pytest.mark.parametrize("accuracy", [0.0, 0.7, 1.0])
async def test_provisional_text_is_read_while_the_link_is_away_and_confirmed_or_replaced_afterwards(
    mosquitto: PrivateBroker, accuracy: float
) -> None:
    async with behind_a_link(mosquitto, drafter=FakeDrafter(accuracy)) as (api, link):
        cutting = asyncio.create_task(cut_while_written(api, link))
        text = provisional = longest = ""
        reason, took = None, dict[str, Any]()
        async for chunk in await api.client.chat.completions.create(
            model=api.version,
            messages=[{"role": "user", "content": "hello"}],
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
            reason = chunk.choices[0].finish_reason or reason
            assert accuracy != 1.0 or TEXT.startswith(text + provisional[:-2])
        await cutting
        assert (text, provisional, reason) == (TEXT, "", "length")
        assert len(longest) > 50
        assert took["provisional"] > 0
        if accuracy in (0.0, 1.0):
            assert took["provisional_confirmed"] == accuracy * took["provisional"]
            async with watched(api) as seen:
                (plan,) = (await seen.until("plan", bool)).data
            assert plan.estimates["provisional"].value == accuracy


@asynccontextmanager
async def away(broker: PrivateBroker, **more: Any) -> AsyncIterator[Served]:
    """A node that has lost its link, and finds no other."""
    async with behind_a_link(broker, drafter=FakeDrafter(1.0), **more) as (api, link):
        link.stall(600)
        link.cut()
        await until(lambda: not api.node.link.is_up)
        yield api


async def test_who_begins_where_nobody_can_be_reached_has_provisional_text_alone(
    mosquitto: PrivateBroker,
) -> None:
    async with away(mosquitto) as api:
        for wait in (None, 4.0):
            patience: dict[str, Any] = {} if wait is None else {"wait": wait}
            began = time.monotonic()
            answer = (await api.chat(max_tokens=400, offline="provisional", seed=3, **patience)).json()
            assert time.monotonic() - began >= (wait or 0.0)
            (choice,) = answer["choices"]
            assert choice["finish_reason"] == "provisional"
            assert not choice["message"]["content"]
            shown = choice["flexspec"]["provisional"]
            assert shown["at"] == 0
            assert alone("hello", 3, 400).startswith(shown["text"][:-2])
            assert shown["text"]
        answer = (await api.chat(offline="provisional", **ASKED)).json()
        assert answer["usage"]["flexspec"]["provisional"] == 119, "the target decides the last token"


async def test_a_device_with_a_low_battery_or_without_leave_writes_nothing_alone(
    mosquitto: PrivateBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "UNLINKED", 2.0)
    (supply := tmp_path / "BAT0").mkdir()
    files = {"type": "Battery", "capacity": 9, "status": "Discharging", "energy_now": 10**7}
    for name, value in files.items():
        (supply / name).write_text(f"{value}\n")
    async with away(mosquitto) as api, away(mosquitto, edge={"provisional_tokens": 0}) as other:
        api.node._battery = BatteryGauge(Batteries(tmp_path), 0.1)
        patient: dict[str, Any] = {"wait": 2.0}
        for node, more in ((api, patient), (api, {}), (other, {})):
            said(await node.chat(offline="provisional", **ASKED, **more), 503, "broker_unreachable")


async def test_events_of_a_response_that_the_official_client_does_not_know_do_no_harm(
    mosquitto: PrivateBroker,
) -> None:
    """Its own helper raises for a text that the limit cuts, so this one ends by itself."""
    async with behind_a_link(mosquitto) as (api, link):
        cutting = asyncio.create_task(cut_while_written(api, link))
        async with api.client.responses.stream(
            model=api.version,
            input="hello",
            max_output_tokens=2000,
            extra_body={"seed": 10, "offline": "provisional"},
            extra_headers={"Idempotency-Key": "k"},
        ) as stream:
            kinds: list[str] = [event.type async for event in stream]
            whole = await stream.get_final_response()
        await cutting
        assert "response.flexspec" in kinds
        assert whole.output_text == alone("hello", 10, 2000)


async def test_a_client_that_comes_back_reads_on_and_begins_nothing_where_its_text_is_gone(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, engine=FakeEngine(lambda _: time.sleep(0.005))) as api:
        asked = {"seed": 3, "max_tokens": 400, "ignore_eos": True, "stream": True, "model": api.version}
        body = {**asked, "messages": [{"role": "user", "content": "hello"}]}
        path, key = f"{api.url}/v1/chat/completions", {"idempotency-key": "k"}
        text, since = "", ""
        while "[DONE]" not in since:
            headers = key | ({"last-event-id": since} if since else {})
            async with api.http.stream("POST", path, json=body, headers=headers) as answer:
                assert answer.status_code == 200
                got = 0
                async for line in answer.aiter_lines():
                    since = line.removeprefix("id: ") if line.startswith("id: ") else since
                    if line == "data: [DONE]":
                        since = line
                    elif line.startswith("data: "):
                        delta = json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                        text, got = text + delta, got + len(delta)
                    if got > 60 and not line:  # a client goes between two events
                        break
        assert text == TEXT
        opened = api.daemons[0].worker.machine.counters.opened
        for lost in ({"idempotency-key": "other"}, {}):
            answer = await api.http.post(path, json=body, headers={"last-event-id": "x:5", **lost})
            said(answer, 404, "unknown_event")
        assert api.daemons[0].worker.machine.counters.opened == opened == 1
