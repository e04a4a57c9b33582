"""Asks by MQTT while the node cannot reach a worker."""

import time

from broker.launcher import PrivateBroker
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.links import LINKS
from schemas.openai import Provisional, unconfirmed
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import alone
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
