"""A family's messages over a real broker with its access rules: what readers take up, and who may write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq import topics
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason, Refused
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.transport.base import Inbound, LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from tests.catalogue.family import ATTACKS, FAMILY, LATER, NOW, ONLINE, ROOT, catalogue, key_set, sealed

USERS = {"device": Role.EDGE, "cloud": Role.WORKER, "publisher": Role.PUBLISHER, "watch": Role.OPERATOR}
TOPICS = (topics.catalogue_topic(FAMILY), topics.keys_topic(FAMILY))


@pytest.fixture(scope="module")
def secured() -> Iterator[PrivateBroker]:
    users = tuple(User(name, role, hashed(f"{name}-password")) for name, role in USERS.items())
    with PrivateBroker(BrokerSettings(port=0, users=users)) as broker:
        yield broker


@asynccontextmanager
async def link_of(broker: PrivateBroker, name: str) -> AsyncIterator[Link]:
    settings = LinkSettings(
        port=broker.port, client_id=f"c-{name}", username=name, password=f"{name}-password"
    )
    async with mqtt_link(settings) as link:
        await link.wait_up(10)
        yield link


async def publish(link: Link, topic: str, payload: bytes) -> None:
    await link.publish(topic, payload, qos=1, retain=True)


async def messages(link: Link) -> AsyncIterator[Inbound]:
    async for event in link.events():
        if isinstance(event, Inbound):
            yield event


@pytest.mark.parametrize("reader", USERS)
async def test_a_reader_that_comes_late_learns_the_family_from_what_the_broker_keeps(
    secured: PrivateBroker, reader: str
) -> None:
    async with link_of(secured, "publisher") as link:
        await publish(link, TOPICS[0], seal(catalogue(), [ONLINE]))
        await publish(link, TOPICS[1], seal(key_set(), [ROOT]))
    follower = Follower(FAMILY, ROOT.public)
    async with link_of(secured, reader) as link:
        for topic in TOPICS:  # the catalogue before its keys
            await link.subscribe(topic, 1)
        async for message in messages(link):
            receive = follower.receive_catalogue if message.topic == TOPICS[0] else follower.receive_keys
            answer = receive(message.payload, NOW)
            if isinstance(answer, Accepted):
                follower.adopt(answer.record)
            if follower.catalogue is not None:
                break
    assert follower.catalogue == catalogue()


async def test_each_attack_is_refused_by_a_device(secured: PrivateBroker) -> None:
    """By a publisher who may write and means ill: all that access rules leave."""
    follower = Follower(FAMILY, ROOT.public)
    refused: dict[str, Reason] = {}
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(link_of(secured, "publisher"))
        for topic in TOPICS:
            await publish(publisher, topic, b"")
        device = await stack.enter_async_context(link_of(secured, "device"))
        for topic in TOPICS:
            await device.subscribe(topic, 1)
        await publish(publisher, TOPICS[1], seal(key_set(), [ROOT]))
        await publish(publisher, TOPICS[0], seal(catalogue(), [ONLINE]))
        for _, payload in ATTACKS.values():
            await publish(publisher, TOPICS[0], payload)
        await publish(publisher, TOPICS[0], sealed(epoch=NOW + 40))
        attacks = iter(ATTACKS)
        async for message in messages(device):
            receive = follower.receive_catalogue if message.topic == TOPICS[0] else follower.receive_keys
            answer = receive(message.payload, LATER)
            if isinstance(answer, Refused):
                refused[next(attacks)] = answer.reason
                assert follower.catalogue == catalogue()
                continue
            assert isinstance(answer, Accepted)
            follower.adopt(answer.record)
            if follower.catalogue == catalogue(NOW + 40):
                break
    assert refused == {name: reason for name, (reason, _) in ATTACKS.items()}
