"""The access rules as Mosquitto enforces them: every user × topic × (publish, read, share, will).

Permissions are expected as the rules state them, and the rules are compared with `TABLE`, which is written by hand.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack

import paho.mqtt.client as paho
import pytest
from paho.mqtt.client import topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion

from broker.access import AccessRule, AccessRules
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq.errors import PublishRefused
from flexspec_mq.share_groups import ShareGroups, new_groups
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound, LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link

USERS = {
    "alice": User("alice", Role.EDGE, hashed("of-alice")),
    "bob": User("bob", Role.EDGE, hashed("of-bob"), site="farm"),
    "w1": User("w1", Role.WORKER, hashed("of-w1"), ("v1",)),
    "w2": User("w2", Role.WORKER, hashed("of-w2"), ("v2",), site="yard"),
    "yard": User("yard", Role.SITE, hashed("of-yard")),
    "farm": User("farm", Role.SITE, hashed("of-farm")),
    "pub": User("pub", Role.PUBLISHER, hashed("of-pub")),
    "ops": User("ops", Role.OPERATOR, hashed("of-ops")),
    "hub": User("hub", Role.ASKER, hashed("of-hub"), edges=("alice",)),
    "hass": User("hass", Role.ASKER, hashed("of-hass")),
    "own": User("own", Role.DEPLOYMENT, hashed("of-own")),
}
NAMES = list(USERS)
READERS = [name for name in NAMES if name != "own"]
"""Clients. Whoever runs the broker does not read what tells the others that all has been delivered."""
ASKERS = {"hub", "hass"}
DAEMONS = set(READERS) - ASKERS
PATIENCE = 60.0

# topic → who may publish on it, who may read it
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "f1/o/v1/alice": ({"alice"}, {"w1"}),
    "f1/o/v2/alice": ({"alice"}, {"w2", "yard"}),
    "f1/o/v2/bob": ({"bob", "farm"}, {"w2", "yard"}),
    "f1/o/v3/alice": (set(), set()),
    "f1/o/v1/bob": ({"bob", "farm"}, {"w1"}),
    "f1/o/v1/w1": ({"w1"}, {"w1"}),
    "f1/o/v1/w2": ({"w2", "yard"}, {"w1"}),
    "f1/o/v1/pub": (set(), {"w1"}),
    "f1/d/w1/alice": ({"alice"}, {"w1"}),
    "f1/d/w2/alice": ({"alice"}, {"w2", "yard"}),
    "f1/d/w1/bob": ({"bob", "farm"}, {"w1"}),
    "f1/d/w3/alice": (set(), set()),
    "f1/d/w1/w1": ({"w1"}, {"w1"}),
    "f1/d/w1/ops": (set(), {"w1"}),
    "f1/g/w1/alice": ({"alice"}, {"w1"}),
    "f1/b/alice": ({"w1", "w2", "yard"}, {"alice"}),
    "f1/g/alice/w1": ({"w1"}, {"alice"}),
    "f1/g/alice/w2": ({"w2", "yard"}, {"alice"}),
    "f1/g/alice/bob": (set(), {"alice"}),
    "f1/b/w1/alice": ({"alice"}, {"w1"}),
    "f1/b/w1/bob": ({"bob", "farm"}, {"w1"}),
    "f1/b/w2/w1": (set(), {"w2", "yard"}),
    "f1/v/alice": ({"w1", "w2", "yard"}, {"alice"}),
    "f1/v/bob": ({"w1", "w2", "yard"}, {"bob", "farm"}),
    "f1/v/w1": ({"w1", "w2", "yard"}, {"w1"}),
    "f1/v/ops": ({"w1", "w2", "yard"}, set()),
    "f1/e/alice": ({"alice"}, {"alice", "pub", "ops"}),
    "f1/e/w1": (set(), {"pub", "ops"}),
    "f1/r/alice/check": ({"alice", "w1", "w2", "yard"}, {"alice"}),
    "f1/r/alice/7": ({"w1", "w2", "yard"}, {"alice"}),
    "f1/r/bob/7": ({"w1", "w2", "yard"}, {"bob", "farm"}),
    "f1/r/alice/7/8": (set(), set()),
    "f1/w/w1": ({"w1"}, DAEMONS),
    "f1/w/w2": ({"w2", "yard"}, DAEMONS),
    "f1/w/w3": (set(), DAEMONS),
    "f1/t/w1": ({"w1"}, DAEMONS),
    "f1/t/w3": (set(), DAEMONS),
    "f1/h/smol": ({"pub"}, DAEMONS),
    "f1/k/smol": ({"pub"}, DAEMONS),
    "f1/i": ({"own"}, {*DAEMONS, "own"}),
    "f1/i/more": (set(), set()),
    "f1/s": ({"own"}, {"pub"}),
    "f1/r/own/check": ({"w1", "w2", "yard"}, set()),
    "f1/h/smol/more": (set(), set()),
    "f1/check/x": (set(), set()),
    "f1/ask/alice": (set(), {"alice"}),
    "f1/ask/alice/hub": ({"hub"}, {"alice"}),
    "f1/ask/alice/hass": ({"hass"}, {"alice"}),
    "f1/ask/bob/hub": (set(), {"bob"}),
    "f1/ask/bob/hass": ({"hass"}, {"bob"}),
    "f1/answer/hub/alice": ({"alice"}, {"hub"}),
    "f1/answer/hub/alice/7": ({"alice"}, {"hub"}),
    "f1/answer/hub/bob": (set(), {"hub"}),
    "f1/answer/hass/alice": ({"alice"}, {"hass"}),
    "f1/answer/alice/alice": (set(), set()),
    "f1/answer/hass/bob/7": ({"bob"}, {"hass"}),
    "f1/a/alice": ({"alice"}, {"hub", "hass"}),
    "f1/a/bob": ({"bob"}, {"hass"}),
    "homeassistant/status": (ASKERS, {"alice", "bob", *ASKERS}),
    "homeassistant/device/flexspec-alice/config": ({"alice"}, ASKERS),
    "homeassistant/device/flexspec-alice": (set(), ASKERS),
    "homeassistant/device/other/config": (set(), ASKERS),
    "other": (set(), set()),
    "$SYS/broker/uptime": (set(), {"ops"}),
    "$CONTROL/dynamic-security/v1": (set(), set()),
}
WITNESSED = [topic for topic, (writers, _) in TABLE.items() if writers]
"""Topics that somebody may write: on the others there is nothing that one could read."""


def rules(name: str) -> list[AccessRule]:
    return AccessRules(USERS.values()).rules_of(name)


def allowed(name: str, *verbs: str) -> set[str]:
    """Topics of the table on which the rules let a user do that."""
    mine = [rule.topic for rule in rules(name) if rule.verb in (*verbs, "readwrite")]
    return {topic for topic in TABLE if any(topic_matches_sub(one, topic) for one in mine)}


LOG: list[str] = []


@pytest.fixture(scope="module")
def secured() -> Iterator[PrivateBroker]:
    with PrivateBroker(BrokerSettings(port=0, users=tuple(USERS.values())), heard=LOG.append) as broker:
        yield broker


async def connect(stack: AsyncExitStack, broker: PrivateBroker, name: str, client: str = "c") -> Link:
    settings = LinkSettings(
        port=broker.port, client_id=f"{client}-{name}", username=name, password=f"of-{name}"
    )
    link = await stack.enter_async_context(mqtt_link(settings))
    await link.wait_up(10)
    return link


async def may_publish(link: Link, topic: str) -> bool:
    try:
        await link.publish(topic, topic.encode(), qos=1)
    except PublishRefused as refused:
        if refused.reason_code == NOT_AUTHORIZED:
            return False
    return True


def end_for(name: str) -> str:
    """A topic that a user can read, for the message behind all others."""
    return "homeassistant/status" if name in ASKERS else "f1/h/end"


async def until_end(link: Link) -> list[Inbound]:
    """Messages that were delivered before the one that says that all have been."""
    found: list[Inbound] = []
    async with asyncio.timeout(PATIENCE):
        async for event in link.events():
            if isinstance(event, Inbound):
                if event.payload == b"end":
                    return found
                found.append(event)
    raise AssertionError


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_rules_says_what_it_should(name: str) -> None:
    assert allowed(name, "write") == {topic for topic, (writers, _) in TABLE.items() if name in writers}
    assert allowed(name, "read") == {topic for topic, (_, readers) in TABLE.items() if name in readers}


@pytest.mark.parametrize("name", NAMES)
async def test_publish(secured: PrivateBroker, name: str) -> None:
    async with AsyncExitStack() as stack:
        link = await connect(stack, secured, name)
        assert {topic for topic in TABLE if await may_publish(link, topic)} == allowed(name, "write")


@pytest.mark.parametrize("how", ["each", "#", "$share/w/{}"])
@pytest.mark.parametrize("name", READERS)
async def test_read_and_share(secured: PrivateBroker, name: str, how: str) -> None:
    """By whatever filter, in whatever group: what arrives is what the rules let a user read."""
    filters = TABLE if "{}" in how or how == "each" else (how,)
    asked = {how.format(one) if "{}" in how else one for one in filters if not one.startswith("$CONTROL")}
    async with AsyncExitStack() as stack:
        writers = {one: await connect(stack, secured, one, "w") for one in USERS}
        link = await connect(stack, secured, name)
        end = end_for(name)
        for one in sorted({*asked, end}):
            await link.subscribe(one, 1)
        for topic in WITNESSED:
            assert await may_publish(writers[min(TABLE[topic][0])], topic)
        await writers[name if name in ASKERS else "pub"].publish(end, b"end", qos=1)
        found = {one.topic for one in await until_end(link) if not one.topic.startswith("$SYS")}
    bare = {one.split("/", 2)[2] if one.startswith("$share") else one for one in asked} | {end}
    expected = allowed(name, "read") & {
        topic for topic in WITNESSED if any(topic_matches_sub(one, topic) for one in bare)
    }
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
async def test_will(secured: PrivateBroker, name: str) -> None:
    """A will is published where its client may publish, and nowhere else."""
    topics = [topic for topic, (_, readers) in TABLE.items() if readers and not topic.startswith("$")]
    async with AsyncExitStack() as stack:
        readers = {one: await connect(stack, secured, one, "r") for one in READERS}
        for link in readers.values():
            await link.subscribe("#", 1)
        for topic in topics:
            await asyncio.to_thread(die_with_will, secured.port, name, topic)
        for one in ("pub", *ASKERS):
            last = await connect(stack, secured, one, "last")
            await last.publish(end_for(one), b"end", qos=1)
        found = {one.topic for link in readers.values() for one in await until_end(link)}
    assert found == allowed(name, "write") & set(topics)


def die_with_will(port: int, name: str, topic: str) -> None:
    """Connect with a will, and be cut off."""
    client = paho.Client(CallbackAPIVersion.VERSION2, f"dies-{name}", protocol=paho.MQTTv5)
    client.username_pw_set(name, f"of-{name}")
    client.will_set(topic, b"will", qos=1)
    client.connect("127.0.0.1", port)
    while not client.is_connected():
        client.loop(0.1)
    connection = client.socket()
    assert isinstance(connection, socket.socket)
    # The broker publishes the will when it sees the end, so before it takes what is sent afterwards.
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(PATIENCE)
    assert connection.recv(1) == b""


async def test_nobody_takes_opens_from_the_workers_group(secured: PrivateBroker) -> None:
    """Everybody joins every group whose name they could know; all opens reach the worker."""
    groups = new_groups()
    sent = 60
    async with AsyncExitStack() as stack:
        worker = await connect(stack, secured, "w1")
        await worker.subscribe(f"$share/{groups.group_of('v1')}/f1/o/v1/+", 1)
        await worker.subscribe("f1/h/+", 1)
        of_others = groups.only(("v2",)).group_of("v2")
        unset, other_secret = (other.group_of("v1") for other in (ShareGroups(), new_groups()))
        for name in NAMES:
            if name != "w1":
                thief = await connect(stack, secured, name, "thief")
                for group in ("w", "base", "v1", "w1", unset, of_others, other_secret):
                    await thief.subscribe(f"$share/{group}/f1/o/v1/+", 1)
        device = await connect(stack, secured, "alice")
        for number in range(sent):
            await device.publish("f1/o/v1/alice", str(number).encode(), qos=1)
        publisher = await connect(stack, secured, "pub")
        await publisher.publish("f1/h/end", b"end", qos=1)
        arrived = [int(one.payload) for one in await until_end(worker)]
    assert arrived == list(range(sent))


@pytest.mark.usefixtures("secured")
def test_mosquitto_has_nothing_to_say_against_the_file() -> None:
    assert LOG
    assert not [line for line in LOG if "ACL" in line or "pattern" in line]
