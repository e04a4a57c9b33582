"""Texts that are asked for by MQTT."""

import asyncio
import queue
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from edge_node.asking.asks import Asks
from edge_node.asking.settings import AskSettings
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.arguments import LinkOptions
from flexspec_mq.transport.base import Inbound
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import PATIENCE, FakeEngine, until, worker_at
from tests.edge_node.api.served import alone, links_to, served, waiting_engine
from tests.edge_node.asking.asked import Asked, Asker, Message, asked, assembled
from tests.transport.proxy import proxy_to

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASK = {"prompt": "hello", "seed": 7, "max_tokens": 40, "ignore_eos": True}
TEXT = alone("hello", 7, 40, ignore_eos=True)


async def answer_to(asker: Asker) -> tuple[list[Message], dict[str, Any]]:
    """All messages up to the last one, and that."""
    messages: list[Message] = []
    while not messages or not messages[-1][1].get("done"):
        messages.append(await asker.message())
    return messages, messages[-1][1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(mosquitto: PrivateBroker) -> AsyncIterator[Asked]:
    """A node that anybody may ask as often as they like."""
    async with asked(mosquitto, asks={"ask_per_minute": 1e4}) as node:
        yield node


async def test_an_ask_gets_the_targets_own_text(mosquitto: PrivateBroker, node: Asked) -> None:
    branch = f"f1/answer/anybody/{node.edge}"
    for five, stream in product((True, False), (True, False)):
        async with Asker(mosquitto, five=five) as asker:
            name = f"k-{five}-{stream}"
            response, mark = (f"{branch}/mine/8", b"\x00\xff") if five else (f"{branch}/{name}", None)
            ask = {**ASK, "id": name, "stream": stream}
            await asker.publish(f"f1/ask/{node.edge}", ask, response if five else None, mark)
            messages, last = await answer_to(asker)
            assert {topic for topic, *_ in messages} == {response}
            assert {correlation for _, _, correlation, _ in messages} == {mark}
            assert {body["id"] for _, body, _, _ in messages} == {name}
            assert (last["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 40)
            assert (assembled(messages) if stream else last["text"]) == TEXT
            assert stream == (len(messages) > 1)


async def test_text_alone_is_a_prompt_and_messages_are_a_conversation(
    mosquitto: PrivateBroker, node: Asked
) -> None:
    async with Asker(mosquitto, five=False) as asker:
        await asker.publish(f"f1/ask/{node.edge}", "hello there")
        topic, body, _, _ = await asker.message()
        assert topic == f"f1/answer/anybody/{node.edge}"
        seed, limit = body["usage"]["seed"], body["usage"]["completion_tokens"]
        assert body["text"] == alone("hello there", seed, limit)
        ask = {**ASK, "messages": [{"role": "user", "content": "hello"}], "response_topic": f"{topic}/x"}
        del ask["prompt"]
        await asker.publish(f"f1/ask/{node.edge}/anybody", ask)
        topic, body, _, _ = await asker.message()
        assert (topic, body["text"]) == (f"f1/answer/anybody/{node.edge}/x", TEXT)
        assert "id" not in body


async def test_a_repeated_ask_is_one_text(mosquitto: PrivateBroker) -> None:
    """Copies while it is written, and afterwards; under the same id nothing else can be asked."""
    engine = waiting_engine()
    async with asked(mosquitto, engine=engine) as node, Asker(mosquitto) as asker:
        topic, ask = f"f1/ask/{node.edge}", {**ASK, "id": 7, "seed": None, "stream": True}
        for _ in range(3):
            await asker.publish(topic, ask)
        await until(lambda: node.served.node.sessions == 1)
        engine.gate.set()
        messages, last = await answer_to(asker)
        first = assembled(messages)
        assert first == alone("hello", last["usage"]["seed"], 40, ignore_eos=True)
        await asker.publish(topic, ask)
        again, _ = await answer_to(asker)
        assert assembled(again) == first
        await asker.publish(topic, {**ask, "prompt": "another"})
        _, refused = await answer_to(asker)
        assert (refused["id"], refused["error"]["code"]) == (7, "idempotency_key_reused")
        assert sum(len(batch) for batch in engine.batches[:1]) == 1
        assert len({prompt for batch in engine.batches for prompt in batch}) == 1


WRONG: list[tuple[Any, str | None, str | None]] = [
    (b"\xff\xfe", "invalid_json", None),
    ("  ", "invalid_value", "prompt"),
    ("{", "invalid_json", None),
    ({"id": "e"}, "invalid_value", "prompt"),
    ({**ASK, "messages": []}, "invalid_value", "prompt"),
    ({**ASK, "id": "e", "colour": 1}, "unknown_parameter", "colour"),
    ({**ASK, "id": "e", "temperature": 9}, "invalid_value", "temperature"),
    ({**ASK, "id": "e", "min_p": 9}, "invalid_value", "min_p"),
    ({**ASK, "id": "e", "model": "none"}, "model_not_found", "model"),
    ({**ASK, "id": "e", "schema": {"type": "nonsense"}, "ignore_eos": False}, "invalid_value", "schema"),
    ({**ASK, "id": "e", "guided_regex": "(", "ignore_eos": False}, "invalid_value", "guided_regex"),
    ({**ASK, "id": "e", "keep": 1e9}, "invalid_value", "keep"),
    ({**ASK, "id": "e", "n": 2}, "unsupported_parameter", "n"),
    *(({**ASK, "id": much}, "invalid_value", "id") for much in ("x" * 129, 2**63, 10**200, True, "")),
    ({**ASK, "id": "e", "response_topic": "x" * 9000}, "wrong_response_topic", "response_topic"),
    ({**ASK, "id": "e", "response_topic": "f1/answer/anybody/other"}, "wrong_response_topic", "response_topic"),
    ("x" * 200_000, "body_too_long", None),
    *(
        ('{"prompt":"x","schema":' + '{"a":' * deep + "1" + "}" * deep + "}", None, None)
        for deep in (500, 986, 2000)
    ),
]  # fmt: skip


async def test_what_cannot_be_answered_is_told_why(mosquitto: PrivateBroker, node: Asked) -> None:
    async with Asker(mosquitto) as asker:
        for ask, code, param in WRONG:
            await asker.publish(f"f1/ask/{node.edge}", ask, correlation=b"c")
            topic, body, correlation, _ = await asker.message()
            assert topic.startswith(f"f1/answer/anybody/{node.edge}")
            assert correlation == b"c"
            assert (body["error"]["code"], body["error"].get("param")) == (code, param) or code is None
            assert len(body["error"]["message"]) < 400
            if isinstance(ask, dict):
                assert body.get("id") == ("e" if ask.get("id") == "e" else None)


async def test_an_answer_is_kept_for_an_asker_that_is_away(mosquitto: PrivateBroker) -> None:
    """Each id has a place of its own; the node clears what the asker has read."""
    async with asked(mosquitto) as node:
        topic = f"f1/ask/{node.edge}"
        async with Asker(mosquitto) as first:
            for name in ("k1", "k2"):
                await first.publish(topic, {**ASK, "id": name, "keep": 60})
                assert (await answer_to(first))[1]["text"] == TEXT
        async with Asker(mosquitto, five=False) as later:
            kept = {
                topic: body
                for topic, body, _, retained in [await later.message() for _ in range(2)]
                if retained
            }
            assert {body["id"] for body in kept.values()} == {"k1", "k2"}
            assert {body["text"] for body in kept.values()} == {TEXT}
            await later.publish(topic, {"id": "k1", "clear": True})
            cleared, body, _, _ = await later.message()
            assert (cleared, body) == (f"f1/answer/anybody/{node.edge}/k1", {})
            await later.publish(topic, {"id": "k2", "clear": True})
            assert (await later.message())[1] == {}
        async with Asker(mosquitto) as last:
            assert await last.silent()


async def test_each_id_gets_its_text_whatever_happens_to_the_link(mosquitto: PrivateBroker) -> None:
    """Copies, a link that is cut and stalls, and an asker that asks again where it heard nothing for a while."""
    rng = random.Random(7)
    texts = {f"n{number}": alone("hello", number, 60, ignore_eos=True) for number in range(30)}
    got: dict[str, str] = {}
    engine = FakeEngine(before=lambda _: time.sleep(0.002))
    async with (
        proxy_to("127.0.0.1", mosquitto.port) as proxy,
        asked(
            mosquitto, engine=engine, asks={"ask_texts": 32, "ask_per_minute": 1e4}, through=proxy.port
        ) as node,
        Asker(mosquitto) as asker,
    ):

        async def ask(name: str) -> None:
            body = {
                **ASK,
                "id": name,
                "seed": int(name[1:]),
                "max_tokens": 60,
                "stream": int(name[1:]) % 3 > 0,
            }
            for _ in range(rng.choice((1, 1, 2))):
                await asker.publish(f"f1/ask/{node.edge}", body, qos=rng.choice((0, 1)))

        async def break_the_link() -> None:
            while True:
                await asyncio.sleep(rng.uniform(0.1, 0.4))
                proxy.cut()
                await asyncio.sleep(rng.uniform(0.1, 0.4))
                proxy.stall()
                await asyncio.sleep(rng.uniform(0.05, 0.3))
                proxy.resume()

        async with running(break_the_link(), "break the link") as breaking:
            for name in texts:
                await ask(name)
            pieces: dict[str, str] = {}
            until_time = time.monotonic() + PATIENCE
            while len(got) < len(texts):
                assert time.monotonic() < until_time, sorted(texts.keys() - got.keys())
                try:
                    _, body, _, _ = await asker.message(1.0)
                except queue.Empty:
                    for name in texts.keys() - got.keys():
                        await ask(name)
                    continue
                name = body["id"]
                assert "error" not in body, body
                if body["done"]:
                    got[name] = body.get("text", pieces.get(name, ""))
                else:
                    assert body["at"] <= len(pieces.get(name, "")), "a piece is missing"
                    pieces[name] = pieces.get(name, "")[: body["at"]] + body["delta"]
            assert not breaking.done()
        assert got == texts
        assert proxy.connections > 1


async def test_an_ask_waits_for_a_worker_if_it_says_so(mosquitto: PrivateBroker) -> None:
    late: dict[str, Any] = {"workers": 0, "version": "ask-late", "api_texts": 1}
    async with asked(mosquitto, **late) as node, Asker(mosquitto) as asker:
        topic = f"f1/ask/{node.edge}"
        await asker.publish(topic, {**ASK, "id": "now"})
        assert (await asker.message())[1]["error"]["code"] == "no_worker"
        await asker.publish(topic, {**ASK, "id": "later", "wait": PATIENCE, "stream": True})
        _, told, _, _ = await asker.message()
        assert told["waiting"].startswith("waiting for a worker of ask-late")
        await asker.publish(
            topic, {**ASK, "id": "full", "wait": 0.5}
        )  # for a place, less than until there may be one
        while (told := (await asker.message())[1])["id"] != "full":
            pass
        assert told["error"]["code"] == "too_many_texts"
        async with worker_at(links_to(mosquitto), "ask-late", version="ask-late"):
            messages, _ = await answer_to(asker)
            assert assembled(messages) == TEXT


async def test_an_answer_waits_for_the_broker_on_which_it_was_asked(
    mosquitto: PrivateBroker, own_mosquitto: PrivateBroker
) -> None:
    """Asks that the broker took while the node was away are answered when it comes back."""
    engine = waiting_engine()
    async with asked(mosquitto, own_mosquitto, engine=engine) as node:
        async with Asker(own_mosquitto) as asker:
            await asker.publish(f"f1/ask/{node.edge}", {**ASK, "id": "slow", "stream": True})
            await until(lambda: node.served.node.sessions == 1)
        own_mosquitto.kill()
        engine.gate.set()
        await until(lambda: not node.served.node.sessions)
        own_mosquitto.start()
        async with Asker(own_mosquitto) as asker:
            await asker.publish(f"f1/ask/{node.edge}", {**ASK, "id": "slow", "stream": True})
            messages, _ = await answer_to(asker)
            assert assembled(messages) == TEXT
        assert len({prompt for batch in engine.batches for prompt in batch}) == 1


async def test_a_lenient_node_says_what_it_ignored(mosquitto: PrivateBroker) -> None:
    async with asked(mosquitto, lenient=True) as node, Asker(mosquitto) as asker:
        await asker.publish(f"f1/ask/{node.edge}", {**ASK, "bad_words": ["x"], "colour": 1})
        body = (await asker.message())[1]
        assert (body["text"], body["ignored"]) == (TEXT, ["bad_words", "colour"])


async def test_another_broker_over_tls_by_its_settings(
    tls_mosquitto: PrivateBroker, mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """As the settings name it; a node whose broker turns it away for good ends, and does not go on unasked."""
    (tmp_path / "password").write_text("wrong\n")
    assert tls_mosquitto.settings.tls is not None
    at: dict[str, Any] = {
        "ask_broker": f"127.0.0.1:{tls_mosquitto.port}",
        "ask_tls_ca": tls_mosquitto.settings.tls.ca,
    }
    settings = AskSettings(mqtt_ask=True, **at)
    async with served(mosquitto) as node:
        link = settings.link(node.node.name, LinkOptions(username="not there"))
        async with Asks(node.api, settings, mqtt_link, link).running() as answering:
            async with mqtt_link(replace(link, client_id="reads")) as reader:
                await reader.subscribe(f"f1/a/{node.node.name}")
                async for event in reader.events():
                    if isinstance(event, Inbound):
                        assert b'"state":"online"' in event.payload
                        break
            assert not answering.done()
        with PrivateBroker(BrokerSettings(port=0, users=())) as closed:
            options = LinkOptions(username="me", password_file=tmp_path / "password")
            link = replace(AskSettings(mqtt_ask=True).link(node.node.name, options), port=closed.port)
            with pytest.raises(LinkRefused, match="'me'"):
                async with Asks(node.api, settings, mqtt_link, link).running() as answering:
                    await answering


async def test_an_ask_that_was_retained_is_not_answered_with_each_connection(
    mosquitto: PrivateBroker,
) -> None:
    async with Asker(mosquitto) as asker:
        await asker.publish("f1/ask/ask-kept", {**ASK, "id": "r"}, retain=True)
        async with asked(mosquitto, edge={"edge": "ask-kept"}):
            assert (await asker.message())[1]["error"]["code"] == "retained"
        await asker.publish("f1/ask/ask-kept", b"", retain=True)
