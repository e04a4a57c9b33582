"""Asks by MQTT while the node cannot reach a worker."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from edge_node.outbox.journal import Journal
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from schemas.openai import Provisional, unconfirmed
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import alone, waiting_engine
from tests.edge_node.asking.asked import Asker, asked


async def test_an_asker_reads_provisional_text_while_the_node_cannot_reach_a_worker(
    mosquitto: PrivateBroker,
) -> None:
    """The node is asked on a broker nearby, and its way to the workers is cut."""
    slow = FakeEngine(lambda _: time.sleep(0.02))
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        asked(mosquitto, node_through=link.port, engine=slow) as node,
        Asker(mosquitto) as asker,
    ):
        ask = {
            "id": "q",
            "prompt": "hello",
            "stream": True,
            "offline": "provisional",
            "seed": 3,
        }
        await asker.publish(f"f1/ask/{node.edge}", {**ask, "max_tokens": 300, "ignore_eos": True})
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
        assert (text, provisional, piece["finish_reason"]) == (
            alone("hello", 3, 300, ignore_eos=True),
            "",
            "length",
        )


async def test_an_ask_that_nobody_can_answer_ends_with_provisional_text(mosquitto: PrivateBroker) -> None:
    async with (
        Proxy.steady(LINKS["loopback"], ("127.0.0.1", mosquitto.port)).listening() as link,
        asked(mosquitto, node_through=link.port) as node,
        Asker(mosquitto) as asker,
    ):
        link.stall(30)
        link.cut()
        await until(lambda: not node.served.node.link.is_up)
        ask = {"id": "q", "prompt": "hello", "offline": "provisional", "max_tokens": 100}
        await asker.publish(f"f1/ask/{node.edge}", ask)
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


async def test_an_ask_that_has_waited_for_too_long_is_to_be_asked_again(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    restarted: dict[str, Any] = {"edge": {"edge": "stale"}, "version": "stale"}
    async with Asker(mosquitto) as asker:
        journal = Journal(tmp_path / "outbox")
        async with asked(mosquitto, engine=waiting_engine(), journal=journal, **restarted) as node:
            await asker.publish(f"f1/ask/{node.edge}", {"id": "s", "prompt": "hello"})
            await until(lambda: node.served.node.sessions == 1)
        await asyncio.sleep(0.3)
        journal = Journal(tmp_path / "outbox")
        async with asked(mosquitto, journal=journal, outbox_age=0.2, **restarted) as node:
            _, message, _, _ = await asker.message()
            assert (message["id"], message["error"]["code"]) == ("s", "stale")
            await until(lambda: not node.served.api.texts.outbox.counts)


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
        await asker.publish(f"f1/ask/{node.edge}", {**ask, "id": "at once"})
        await asker.publish(f"f1/ask/{node.edge}", {**ask, "offline": "deliver"})
        answers = {answer["id"]: answer for _, answer, *_ in [await asker.message() for _ in range(2)]}
        assert answers["at once"]["error"]["code"] == "broker_unreachable"
        assert answers["d"]["text"] == alone("hello", 7, 40)
