"""The access rules as Mosquitto enforces them: every role against every topic of the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User
from flexspec_mq.errors import PublishRefused
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound, Link, LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link

USERS = {
    "alice": Role.EDGE,
    "bob": Role.EDGE,
    "w1": Role.WORKER,
    "w2": Role.WORKER,
    "pub": Role.PUBLISHER,
    "ops": Role.OPERATOR,
}

# topic → who may publish on it, who may read it
RULES: dict[str, tuple[set[str], set[str]]] = {
    "f1/o/v1/alice": ({"alice"}, {"w1", "w2"}),
    "f1/d/w1/alice": ({"alice"}, {"w1"}),
    "f1/d/w2/alice": ({"alice"}, {"w2"}),
    "f1/v/alice": ({"w1", "w2"}, {"alice"}),
    "f1/e/alice": ({"alice"}, {"alice", "pub", "ops"}),
    "f1/r/alice/7": ({"alice", "w1", "w2"}, {"alice"}),
    "f1/w/w1": ({"w1"}, set(USERS)),
    "f1/h/smol": ({"pub"}, set(USERS)),
    "f1/k/smol": ({"pub"}, set(USERS)),
    "f1/h/smol/more": (set(), set()),
    "f1/check/x": (set(), set()),
    "other": (set(), set()),
}


@pytest.fixture(scope="module")
def secured() -> Iterator[PrivateBroker]:
    users = tuple(User(name, role, f"{name}-password") for name, role in USERS.items())
    with PrivateBroker(BrokerSettings(port=0, users=users)) as broker:
        yield broker


async def connect(stack: AsyncExitStack, broker: PrivateBroker, name: str) -> Link:
    settings = LinkSettings(
        port=broker.port, client_id=f"c-{name}", username=name, password=f"{name}-password"
    )
    link = await stack.enter_async_context(mqtt_link(settings))
    await link.wait_up(10)
    return link


async def may_publish(link: Link, topic: str) -> bool:
    try:
        await link.publish(topic, topic.encode(), qos=1, retain=True)
    except PublishRefused as refused:
        if refused.reason_code != NOT_AUTHORIZED:
            raise
        return False
    return True


async def test_who_may_write(secured: PrivateBroker) -> None:
    async with AsyncExitStack() as stack:
        links = {name: await connect(stack, secured, name) for name in USERS}
        for topic, (writers, _) in RULES.items():
            found = {name for name, link in links.items() if await may_publish(link, topic)}
            assert found == writers, topic


async def test_who_may_read(secured: PrivateBroker) -> None:
    """Each user subscribes to everything; a last message to each of them says that all before has come."""
    async with AsyncExitStack() as stack:
        links = {name: await connect(stack, secured, name) for name in USERS}
        for link in links.values():
            await link.subscribe("#", 1)
        for topic, (writers, _) in RULES.items():
            if writers:
                await links[min(writers)].publish(topic, b"live", qos=1)
        await links["pub"].publish("f1/h/end", b"end", qos=1)
        readers: dict[str, set[str]] = {topic: set() for topic in RULES}
        for name, link in links.items():
            async for event in link.events():
                if isinstance(event, Inbound) and event.payload == b"end":
                    break
                if isinstance(event, Inbound) and event.payload == b"live":
                    readers[event.topic].add(name)
        for topic, (writers, expected) in RULES.items():
            assert readers[topic] == (expected if writers else set()), topic


def test_mosquitto_has_nothing_to_say_against_the_file(secured: PrivateBroker) -> None:
    said = [line for line in secured.log().splitlines() if "ACL" in line or "pattern" in line]
    assert said == []
