"""Who may ask whom, how much, and who reads whose answers, at a Mosquitto with users."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from edge_node.api.errors import ApiError
from edge_node.asking import clients
from edge_node.asking.asks import Asks
from edge_node.asking.request import AskReader
from edge_node.asking.settings import AskSettings
from flexspec_mq import topics, waiting
from flexspec_mq.errors import PublishRefused
from flexspec_mq.transport.base import Inbound, LinkSettings, Outbound
from flexspec_mq.transport.properties import ReadProperties, packed, read_properties
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import until
from tests.edge_node.api.served import served
from tests.edge_node.asking.asked import Asker, asked
from tests.edge_node.asking.test_asks import ASK, TEXT

USERS = (
    User("alice", Role.EDGE, hashed("of-alice")),
    User("bob", Role.EDGE, hashed("of-bob")),
    User("hub", Role.ASKER, hashed("of-hub"), edges=("alice",)),
    User("spy", Role.ASKER, hashed("of-spy")),
    User("far", Role.ASKER, hashed("of-far"), edges=("bob",)),
    User("w1", Role.WORKER, hashed("of-w1"), ("v1",)),
)


@pytest.fixture(scope="module")
def secured() -> Iterator[PrivateBroker]:
    with PrivateBroker(BrokerSettings(port=0, users=USERS)) as broker:
        yield broker


async def test_only_the_asker_reads_its_answers_and_asks_as_itself(
    mosquitto: PrivateBroker, secured: PrivateBroker
) -> None:
    async with (
        asked(mosquitto, secured, user="alice", edge={"edge": "alice"}),
        Asker(secured, "hub") as hub,
        Asker(secured, "spy") as spy,
        Asker(secured, "far") as far,
        Asker(secured, "bob") as device,
        Asker(secured, "w1") as worker,
    ):
        others = spy, far, device, worker
        for other in others:
            await other.listen("#")
            await other.listen("f1/answer/#")
        for liar in (spy, far, device, worker):  # in the name of another, or of nobody
            await liar.publish("f1/ask/alice/hub", {**ASK, "id": "lie"})
            await liar.publish("f1/ask/alice", {**ASK, "id": "lie"})
            await liar.publish("f1/answer/hub/alice", {"id": "lie", "text": "lie", "done": True})
        await far.publish("f1/ask/alice/far", {**ASK, "id": "lie"})
        await hub.publish("f1/ask/alice/hub", {**ASK, "id": "true", "keep": 60})
        assert [(topic, body["text"]) for topic, body, _, _ in [await hub.message()]] == [
            ("f1/answer/hub/alice/true", TEXT)
        ]
        await hub.publish("f1/ask/alice/hub", {"id": "true", "clear": True})
        assert (await hub.message())[1] == {}
        for other in others:
            assert await other.silent(0.1) or not [
                topic for topic in await drained(other) if topic.startswith(("f1/ask", "f1/answer"))
            ]


async def drained(asker: Asker) -> list[str]:
    """Topics of all that has come."""
    found = []
    while not await asker.silent(0.05):
        found.append((await asker.message())[0])
    return found


async def test_a_node_answers_nowhere_but_to_the_asker(
    mosquitto: PrivateBroker, secured: PrivateBroker
) -> None:
    """Whatever Response Topic is named; the asker is told where it may be."""
    hub = "f1/answer/hub"
    wrong = "f1/answer/spy/alice", f"{hub}/bob", f"{hub}/alicex", "f1/v/bob", f"{hub}/alice//", "f1/i"
    async with (
        asked(mosquitto, secured, asks={"ask_per_minute": 1e4}, user="alice", edge={"edge": "alice"}),
        Asker(secured, "spy") as spy,
    ):
        await spy.listen("#")
        for five in (True, False):
            async with Asker(secured, "hub", five=five) as asker:
                for response in wrong:
                    named = {} if five else {"response_topic": response}
                    await asker.publish("f1/ask/alice/hub", {**ASK, **named}, response if five else None)
                    topic, body, _, _ = await asker.message()
                    assert topic == f"{hub}/alice"
                    assert body["error"]["code"] == "wrong_response_topic"
                    assert f"{hub}/alice" in body["error"]["hint"]
        assert not [topic for topic in await drained(spy) if topic.startswith("f1/answer")]


def test_what_one_user_may_ask_and_have_kept() -> None:
    user = clients.AskClient(AskSettings(ask_per_minute=12.0, ask_texts=2, max_kept=2), 0.0)
    assert [user.take(1e6) for _ in range(13)] == [True] * 12 + [False]
    told = [user.too_many(1e6 + later) for later in (0.0, 0.9, 1.0)]
    assert [error and error.retry_after for error in told] == [5, None, 5]
    assert [user.take(1e6 + 5.0) for _ in range(2)] == [True, False]
    for user.asks in (7, 8):
        assert user.take(2e6) == (user.asks == 7)
    seldom = clients.AskClient(AskSettings(ask_per_minute=0.5), 0.0)
    assert [seldom.take(60.0 * minute) for minute in range(6)] == [False, True, False, True, False, True]
    for topic, seconds, now in (("a", 10.0, 0.0), ("b", 20.0, 0.0), ("a", 10.0, 5.0)):
        user.keep(topic, seconds, now)
    with pytest.raises(ApiError, match="2 answers are kept for one user, as many as may be"):
        user.keep("c", 10.0, 14.0)
    user.forget("b")
    user.keep("c", 10.0, 14.0)
    user.keep("d", 10.0, 15.0)


async def test_a_user_has_so_many_texts_at_a_time_and_others_wait_as_long_as_they_say() -> None:
    user = clients.AskClient(AskSettings(ask_texts=2), 0.0)
    async with user.text(0.0):
        async with user.text(0.0):
            for patience in (0.0, 0.01):
                with pytest.raises(ApiError, match="2 texts are being written for one user") as full:
                    await asyncio.wait_for(user.text(patience).__aenter__(), 30.0)
                assert "`wait`" in full.value.hint
            waits = asyncio.create_task(user.text(60.0).__aenter__())
            await asyncio.sleep(0)
            assert not waits.done()
        await waits


class Wary(MemoryBroker):
    """Knows what a node sends, and lets it answer all but the user ``u1299``."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Outbound] = []

    def send(self, client_id: str, message: Outbound) -> None:
        self.sent.append(message)
        if "u1299" in message.topic:
            raise PublishRefused("it may not be answered", reason_code=0x87)
        super().send(client_id, message)

    def ask(self, edge: str, user: int, payload: bytes = b" ") -> None:
        self.route(Outbound(topics.ask_topic(edge, f"u{user}"), payload, 1))

    def count(self, beginning: str) -> int:
        return sum(message.topic.startswith(beginning) for message in self.sent)


async def test_how_much_all_users_may_ask_and_are_told(
    mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "STATUS", 1000.0)
    settings = AskSettings(mqtt_ask=True, max_asks=100, ask_per_minute=1.0, home_assistant="hass")
    broker, link = Wary(), LinkSettings(client_id="asked")
    async with served(mosquitto, workers=0) as node:
        edge, asks = node.node.name, partial(Asks, node.api, settings, broker.link, link)

        async def answers(users: range, expected: dict[str, int]) -> None:
            broker.sent.clear()
            for user in users:  # all before the node reads the first one
                broker.ask(edge, user)
            codes = (msgspec.json.decode(each.payload)["error"]["code"] for each in broker.sent)
            await until(lambda: len(broker.sent) >= sum(expected.values()))
            assert Counter(codes) == expected

        async with asks().running():
            await until(lambda: broker.count("homeassistant/") == 1)
            for _ in range(3):
                broker.route(Outbound("homeassistant/status", b"online", 1))
            await answers(range(300), {"invalid_value": 100, "too_many_asks": 100})
            for first in range(300, 1300, 100):
                await answers(range(first, first + 100), {"invalid_value": 100})
            await answers(range(1299, 1300), {"too_many_asks": 1})
            await answers(range(1), {"invalid_value": 1})  # whom it has forgotten for others
            assert caplog.text.count("it may not be answered") == 1
            monkeypatch.setattr(waiting, "PATIENCE", 0.05)
            broker.ask(edge, 2000, b'{"prompt": "x", "keep": 60}')
            broker.stop()
            await until(lambda: len(node.api.texts) == 1)
            await until(lambda: len(node.api.texts) == 0)
            await asyncio.sleep(0.3)
            broker.start()
            await until(lambda: broker.retained(topics.answer_topic("u2000", edge)), 10.0)
            assert broker.sent[-1].expiry == 60.0
            assert await node.metric('flexspec_edge:refused_total{reason="too_many_asks"}') == 201
        monkeypatch.setattr(waiting, "STATUS", 0.002)
        broker.sent.clear()
        async with asks().running():
            await asyncio.sleep(0.2)
        assert broker.count(topics.asked_topic(edge)) <= 3  # when it has changed


@pytest.mark.parametrize("more", [{}, {"user": "hub"}, {"safety_identifier": "hub\0"}])
def test_no_asker_is_taken_for_another_whatever_it_says(more: dict[str, str]) -> None:
    """By the name of a user a node finds the answers that it remembers, and by id and user those that it keeps."""
    readers = {user: AskReader(user, "alice") for user in ("hub", "spy", "hu", topics.ANYBODY)}
    ask = Inbound("t", msgspec.json.encode({**ASK, "id": "q", **more}))
    read = {user: reader.read(ask, most=999) for user, reader in readers.items()}
    users = {user: ask.spec.user for user, ask in read.items() if ask is not None}
    keys = {reader.key.key for reader in readers.values() if reader.key is not None}
    assert len(keys) == len(set(users.values())) == len(read)
    assert users[topics.ANYBODY] == more.get("user", more.get("safety_identifier", "")).encode()


NAMES = st.sampled_from(("hub", "alice", "hub.", "a-b", "x"))
PARTS = st.sampled_from(("f1", "answer", "ask", "hub", "alice", "+", "#", "", "$SYS", "a b", "x", "é"))


@given(NAMES, NAMES, st.lists(PARTS, max_size=9))
def test_topics_for_answers_are_below_that_of_the_user_at_the_edge(
    user: str, edge: str, parts: list[str]
) -> None:
    topic = "/".join(parts)
    if topics.is_answer_topic(topic, user, edge):
        assert parts[:4] == ["f1", "answer", user, edge]
        assert not set(parts) & {"+", "#", "", "a b", "é"}
    good = topics.answer_topic(user, edge, "x")
    assert topics.is_answer_topic(good, user, edge)
    assert topics.client_of_ask(topics.ask_topic(edge, user), edge) == user


@given(
    st.lists(st.sampled_from((1, 2, 3, 8, 9, 11, 35, 38)), max_size=12),
    st.binary(max_size=20),
    st.text(max_size=12),
)
def test_properties_are_those_that_paho_reads(kinds: list[int], data: bytes, topic: str) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    topic = "".join(c for c in topic if c.isprintable() and c not in "\0#+")
    values: dict[int, tuple[str, Any]] = {
        1: ("PayloadFormatIndicator", 1),
        2: ("MessageExpiryInterval", 5),
        3: ("ContentType", "text/plain"),
        8: ("ResponseTopic", topic),
        9: ("CorrelationData", data),
        11: ("SubscriptionIdentifier", 300),
        35: ("TopicAlias", 2),
        38: ("UserProperty", ("a", topic)),
    }
    for kind in kinds:
        name, value = values[kind]
        setattr(properties, name, value)
    told = read_properties(packed(properties))
    assert told == ReadProperties(
        topic if 8 in kinds else None, data if 9 in kinds else None, (("a", topic),) * kinds.count(38)
    )


@given(st.binary(max_size=64))
def test_no_properties_break_their_reader(raw: bytes) -> None:
    read_properties(raw)
