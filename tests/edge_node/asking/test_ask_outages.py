"""Asks by MQTT while the node cannot reach a worker."""

import asyncio
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from edge_node.outbox.journal import Journal
from flexspec_mq import waiting
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from schemas.openai import Provisional, unconfirmed
from tests.daemons import FakeEngine, until, worker_at
from tests.edge_node.api.served import alone, links_to, waiting_engine
from tests.edge_node.asking.asked import Asked, Asker, asked


async def test_an_asker_reads_provisional_text_while_the_node_cannot_reach_a_worker(
    mosquitto: PrivateBroker,
) -> None:
    """The node is asked on a broker nearby, and its way to the workers is cut, at last for good."""
    slow = FakeEngine(lambda _: time.sleep(0.02))
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        asked(mosquitto, node_through=link.port, engine=slow) as node,
        Asker(mosquitto) as asker,
    ):
        topic = f"f1/ask/{node.edge}"
        ask = {"id": "q", "prompt": "hello", "offline": "provisional", "seed": 3, "max_tokens": 300}
        await asker.publish(topic, {**ask, "stream": True, "ignore_eos": True})
        text = provisional = longest = ""
        waited = False
        while True:
            _, piece, _, _ = await asker.message()
            if piece["done"]:
                break
            text, provisional = text[: piece["at"]] + piece["delta"], unconfirmed(provisional, piece["delta"])
            if "provisional" in piece:
                provisional = Provisional(**piece["provisional"]).applied(provisional)
            if text and not longest and not waited:
                link.stall(4.5)
                link.cut()
            longest = max(longest, provisional, key=len)
            waited |= "waiting for the broker" in piece.get("waiting", "")
        assert waited
        assert len(longest) > 50
        whole = alone("hello", 3, 300, ignore_eos=True)
        assert (text, provisional, piece["finish_reason"]) == (whole, "", "length")
        link.stall(30)
        link.cut()
        await until(lambda: not node.served.node.link.is_up)
        await asker.publish(topic, {**ask, "id": "nobody"})
        _, answer, _, _ = await asker.message()
        assert (answer["finish_reason"], answer["text"]) == ("provisional", "")
        assert answer["provisional"]["text"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_ask_with_an_id_is_answered_by_a_node_that_was_started_again(
    mosquitto: PrivateBroker, tmp_path: Path, stream: bool
) -> None:
    """It is answered once, with its Correlation Data, and nobody is told that the node stopped meanwhile."""
    restarted: dict[str, Any] = {"edge": {"edge": f"again-{stream}"}, "version": f"again-{stream}"}
    topic = f"f1/answer/anybody/again-{stream}/here"
    async with Asker(mosquitto) as asker:
        async with asked(
            mosquitto, engine=waiting_engine(), journal=Journal(tmp_path / "outbox"), **restarted
        ) as node:
            ask = {"id": "r", "prompt": "hello", "seed": 7, "max_tokens": 40, "stream": stream}
            await asker.publish(f"f1/ask/{node.edge}", ask, topic, b"\x01")
            await until(lambda: node.served.node.sessions == 1)
        assert await asker.silent()
        async with asked(mosquitto, journal=Journal(tmp_path / "outbox"), **restarted) as node:
            text = ""
            while True:
                where, message, correlation, _ = await asker.message()
                assert (where, message["id"], correlation) == (topic, "r", b"\x01")
                if message["done"]:
                    break
                text = text[: message["at"]] + message["delta"]
            assert message.get("text", text) == alone("hello", 7, 40)
            await until(lambda: not node.served.api.texts)
        async with asked(mosquitto, journal=Journal(tmp_path / "outbox"), **restarted):
            assert await asker.silent()


async def holds(node: Asked, **counts: int) -> None:
    """Wait until the outbox has so many requests in each state."""
    await until(lambda: node.served.api.texts.outbox.counts == counts)


async def test_an_ask_that_has_waited_for_too_long_is_to_be_asked_or_sent_again(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """Its asker is told so once, and gets the answer of one that is sent."""
    restarted: dict[str, Any] = {"edge": {"edge": "stale"}, "version": "stale"}
    path = tmp_path / "outbox"
    async with Asker(mosquitto) as asker:
        async with asked(mosquitto, engine=waiting_engine(), journal=Journal(path), **restarted) as node:
            for number in range(2):
                await asker.publish(f"f1/ask/{node.edge}", {"id": number, "prompt": "hello", "max_tokens": 9})
                await holds(node, queued=number + 1)
        await asyncio.sleep(0.6)
        async with asked(mosquitto, journal=Journal(path), outbox_age=0.5, **restarted) as node:
            for _ in range(2):
                assert (await asker.message())[1]["error"]["code"] == "stale"
            await holds(node, stale=2)
            entry, _ = await node.served.api.texts.outbox.run(node.served.api.texts.outbox.journal.entries)
            assert (await node.served.post(f"/v1/outbox/{entry.id}", {})).json()["state"] == "queued"
            _, answer, _, _ = await asker.message()
            assert (answer["id"], answer["text"]) == (0, alone("hello", answer["usage"]["seed"], 9))
            await holds(node, done=1, stale=1)
        async with asked(mosquitto, journal=Journal(path), outbox_age=0.5, **restarted) as node:
            await holds(node, done=1)
            assert await asker.silent()


async def test_asks_that_wait_for_their_turn_are_answered_by_a_node_that_was_started_again(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    restarted: dict[str, Any] = {"edge": {"edge": "turns"}, "version": "turns", "asks": {"ask_texts": 1}}
    ask = {"prompt": "hello", "seed": 7, "max_tokens": 40, "wait": 60.0}
    async with Asker(mosquitto) as asker:
        journal = Journal(tmp_path / "outbox")
        async with asked(mosquitto, engine=waiting_engine(), journal=journal, **restarted) as node:
            for number in range(3):
                await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": number})
                await holds(node, queued=number + 1)
            await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": 3, "wait": 0.1})
            assert (await asker.message())[1]["error"]["code"] == "too_many_texts"
            await holds(node, queued=3)
            entries = await node.served.api.texts.outbox.run(journal.entries)
            await node.served.api.texts.drop(entries[1].id)
        assert await asker.silent()
        async with asked(mosquitto, journal=Journal(tmp_path / "outbox"), **restarted) as node:
            answers = [(await asker.message())[1] for _ in range(2)]
            assert [answer["id"] for answer in answers] == [0, 2]
            assert {answer["text"] for answer in answers} == {alone("hello", 7, 40)}


async def test_an_ask_that_is_dropped_before_its_turn_is_not_answered(mosquitto: PrivateBroker) -> None:
    engine = waiting_engine()
    async with asked(mosquitto, engine=engine, asks={"ask_texts": 1}) as node, Asker(mosquitto) as asker:
        ask, texts = {"prompt": "hello", "seed": 7, "max_tokens": 40, "wait": 60.0}, node.served.api.texts
        for number in range(2):
            await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": number})
            await holds(node, queued=number + 1)
        await texts.drop((await texts.outbox.run(texts.outbox.journal.entries))[1].id)
        engine.gate.set()
        answers = {answer["id"]: answer for _, answer, *_ in [await asker.message() for _ in range(2)]}
        assert answers[0]["text"] == alone("hello", 7, 40)
        assert "dropped" in answers[1]["error"]["message"]
        await holds(node, done=1)


async def test_an_ask_waits_for_a_worker_that_a_node_started_again_has_not_seen(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    restarted: dict[str, Any] = {"edge": {"edge": "unseen"}, "version": "unseen", "workers": 0}
    links = links_to(mosquitto)
    async with Asker(mosquitto) as asker:
        async with (
            worker_at(links, "other", waiting_engine(), version="other"),
            asked(mosquitto, journal=Journal(tmp_path / "outbox"), **restarted) as node,
        ):
            await until(lambda: "other" in node.served.node.directory.versions())
            ask = {"id": "o", "prompt": "hello", "seed": 7, "max_tokens": 40, "model": "other"}
            await asker.publish(f"f1/ask/{node.edge}", ask)
            await until(lambda: node.served.node.sessions == 1)
        async with asked(mosquitto, journal=Journal(tmp_path / "outbox"), **restarted) as node:
            assert await asker.silent()
            async with worker_at(links, "other", version="other"):
                assert (await asker.message())[1]["text"] == alone("hello", 7, 40)


async def test_an_answer_that_its_broker_never_had_is_told_by_the_node_s_next_incarnation(
    mosquitto: PrivateBroker, own_mosquitto: PrivateBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: dict[str, Any] = {"edge": {"edge": "unheard"}, "version": "unheard"}
    engine = waiting_engine()
    journal = Journal(tmp_path / "outbox")
    async with asked(mosquitto, own_mosquitto, engine=engine, journal=journal, **restarted) as node:
        async with Asker(own_mosquitto) as asker:
            ask = {"id": "u", "prompt": "hello", "seed": 7, "max_tokens": 40}
            await asker.publish(f"f1/ask/{node.edge}", ask)
            await until(lambda: node.served.node.sessions == 1)
        own_mosquitto.kill()
        monkeypatch.setattr(waiting, "PATIENCE", 0.3)
        engine.gate.set()
        await holds(node, unread=1)
        await until(lambda: not node.served.api.texts)
        await holds(node, unread=1)
    own_mosquitto.start()
    journal = Journal(tmp_path / "outbox")
    async with Asker(own_mosquitto) as asker, asked(mosquitto, own_mosquitto, journal=journal, **restarted):
        assert (await asker.message())[1]["text"] == alone("hello", 7, 40)


async def test_an_ask_to_be_delivered_waits_for_the_way_to_the_workers(mosquitto: PrivateBroker) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        asked(mosquitto, node_through=link.port) as node,
        Asker(mosquitto) as asker,
    ):
        link.stall(3.0)
        link.cut()
        await until(lambda: not node.served.node.link.is_up)
        ask = {"id": "d", "prompt": "hello", "seed": 7, "max_tokens": 40}
        await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": "soon", "wait": 0.1})
        await asker.publish(f"f1/ask/{node.edge}", {**ask, "offline": "deliver"})
        answers = {answer["id"]: answer for _, answer, *_ in [await asker.message() for _ in range(2)]}
        assert answers["soon"]["error"]["code"] == "broker_unreachable"
        assert answers["d"]["text"] == alone("hello", 7, 40)


async def test_an_ask_that_cannot_be_read_any_more_holds_up_no_other(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    """As one may be after an update of the node."""
    restarted: dict[str, Any] = {"edge": {"edge": "read"}, "version": "read"}
    path, ask = tmp_path / "outbox", {"prompt": "hello", "seed": 7, "max_tokens": 40}
    async with Asker(mosquitto) as asker:
        async with asked(mosquitto, engine=waiting_engine(), journal=Journal(path), **restarted) as node:
            for number in range(2):
                await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": number})
                await holds(node, queued=number + 1)
        with closing(Journal(path)) as journal:
            journal.rewrite(journal.entries()[0].id, b"[]")
        async with asked(mosquitto, journal=Journal(path), **restarted):
            _, answer, _, _ = await asker.message()
            assert (answer["id"], answer["text"]) == (1, alone("hello", 7, 40))
