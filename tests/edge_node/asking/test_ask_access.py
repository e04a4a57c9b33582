"""Who may ask whom, and who reads whose answers, at a Mosquitto with users."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from edge_node.asking.request import AskReader
from flexspec_mq import topics
from flexspec_mq.transport.base import Inbound
from flexspec_mq.transport.properties import ReadProperties, packed, read_properties
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
