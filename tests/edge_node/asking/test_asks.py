"""Texts that are asked for by MQTT."""

from __future__ import annotations

from typing import Any

import pytest

from broker.launcher import PrivateBroker
from tests.daemons import until
from tests.edge_node.api.served import alone, waiting_engine
from tests.edge_node.asking.asked import AioAsker, Asker, Message, asked, assembled

ASK = {"prompt": "hello", "seed": 7, "max_tokens": 40, "ignore_eos": True}
TEXT = alone("hello", 7, 40, ignore_eos=True)


async def answer_to(asker: Asker) -> tuple[list[Message], dict[str, Any]]:
    """All messages up to the last one, and that."""
    messages: list[Message] = []
    while not messages or not messages[-1][1].get("done"):
        messages.append(await asker.message())
    return messages, messages[-1][1]


@pytest.mark.parametrize("kind", [Asker, AioAsker])
@pytest.mark.parametrize("five", [True, False])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_ask_gets_the_targets_own_text(
    mosquitto: PrivateBroker, kind: type[Asker], five: bool, stream: bool
) -> None:
    async with asked(mosquitto) as node, kind(mosquitto, five=five) as asker:
        branch = f"f1/answer/anybody/{node.edge}"
        ask = {**ASK, "id": "k-7", "stream": stream}
        if five:
            response = f"{branch}/mine/8"
            await asker.publish(f"f1/ask/{node.edge}", ask, response, b"\x00\xff")
        else:
            response = f"{branch}/k-7"
            await asker.publish(f"f1/ask/{node.edge}", ask)
        messages, last = await answer_to(asker)
        assert {topic for topic, *_ in messages} == {response}
        assert {correlation for _, _, correlation, _ in messages} == {b"\x00\xff" if five else None}
        assert {body["id"] for _, body, _, _ in messages} == {"k-7"}
        assert last["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 40
        assert (assembled(messages) if stream else last["text"]) == TEXT
        assert stream == (len(messages) > 1)


async def test_text_alone_is_a_prompt_and_messages_are_a_conversation(mosquitto: PrivateBroker) -> None:
    async with asked(mosquitto) as node, Asker(mosquitto, five=False) as asker:
        await asker.publish(f"f1/ask/{node.edge}", "hello there")
        topic, body, _, _ = await asker.message()
        assert topic == f"f1/answer/anybody/{node.edge}"
        seed, limit = body["usage"]["flexspec"]["seed"], body["usage"]["completion_tokens"]
        assert body["text"] == alone("hello there", seed, limit)
        turns = [{"role": "user", "content": "hello"}]
        ask = {**ASK, "messages": turns, "response_topic": f"{topic}/x"}
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
        assert first == alone("hello", last["usage"]["flexspec"]["seed"], 40, ignore_eos=True)
        await asker.publish(topic, ask)
        again, _ = await answer_to(asker)
        assert assembled(again) == first
        await asker.publish(topic, {**ask, "prompt": "another"})
        _, refused = await answer_to(asker)
        assert (refused["id"], refused["error"]["code"]) == (7, "idempotency_key_reused")
        assert sum(len(batch) for batch in engine.batches[:1]) == 1
        assert len({prompt for batch in engine.batches for prompt in batch}) == 1


@pytest.mark.parametrize(
    ("ask", "code", "param"),
    [
        (b"\xff\xfe", "invalid_json", None),
        ("  ", "invalid_value", "prompt"),
        ("{", "invalid_json", None),
        ({"id": "e"}, "invalid_value", "prompt"),
        ({**ASK, "messages": []}, "invalid_value", "prompt"),
        ({**ASK, "id": "e", "colour": 1}, "unknown_parameter", "colour"),
        ({**ASK, "id": "e", "temperature": 9}, "invalid_value", "temperature"),
        ({**ASK, "id": "e", "model": "none"}, "model_not_found", "model"),
        ({**ASK, "id": "e", "keep": 1e9}, "invalid_value", "keep"),
        (
            {**ASK, "id": "e", "response_topic": "f1/answer/anybody/other"},
            "wrong_response_topic",
            "response_topic",
        ),
        ("x" * 200_000, "body_too_long", None),
    ],
)
async def test_what_cannot_be_answered_is_told_why(
    mosquitto: PrivateBroker, ask: Any, code: str, param: str | None
) -> None:
    async with asked(mosquitto) as node, Asker(mosquitto) as asker:
        await asker.publish(f"f1/ask/{node.edge}", ask, correlation=b"c")
        topic, body, correlation, _ = await asker.message()
        assert topic.startswith(f"f1/answer/anybody/{node.edge}")
        assert correlation == b"c"
        assert (body["error"]["code"], body["error"].get("param")) == (code, param)
        if isinstance(ask, dict) and "id" in ask:
            assert body["id"] == "e"
