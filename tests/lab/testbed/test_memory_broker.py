"""What the in-memory broker does beyond the contract of all links."""

from __future__ import annotations

import asyncio

import pytest

from flexspec_mq.errors import LinkDown, LinkError, PublishRefused
from flexspec_mq.transport.base import (
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Subscription,
)
from lab.testbed.memory_broker import MemoryBroker
from tests.transport.reading import PATIENCE, Reader


def settings_for(client: str, *filters: str, expiry: int = 0) -> LinkSettings:
    wanted = tuple(Subscription(f, 1) for f in filters)
    return LinkSettings(client_id=client, subscriptions=wanted, session_expiry=expiry)


async def test_an_absent_member_of_a_share_keeps_its_turn_and_a_share_gets_nothing_retained() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("edge")) as edge:
        await edge.wait_up(PATIENCE)
        await edge.publish("o/kept", b"kept", qos=1, retain=True)
        async with broker.link(settings_for("w1", "$share/w/o/+")) as here:
            await here.wait_up(PATIENCE)
            away_settings = settings_for("w2", "$share/w/o/+", expiry=60)
            async with broker.link(away_settings) as away:
                await away.wait_up(PATIENCE)
            for i in range(4):
                await edge.publish("o/e", bytes((i,)), qos=1)
            here_got = await Reader(here).payloads(2)
            async with broker.link(away_settings) as back:
                away_got = await Reader(back).payloads(2)
            assert sorted([*here_got, *away_got]) == [bytes((i,)) for i in range(4)]


async def test_a_stopped_broker_is_given_up_on_request() -> None:
    broker = MemoryBroker()
    broker.stop()
    async with broker.link(LinkSettings(client_id="cli", give_up_after=0.02)) as link:
        with pytest.raises(LinkError, match="not running"):
            await link.wait_up(PATIENCE)


async def test_a_crash_forgets_and_an_orderly_stop_does_not() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("link")) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        await link.publish("r", b"kept", qos=1, retain=True)
        broker.stop()
        await reader.wait_for(LinkDownEvent)
        with pytest.raises(LinkDown):
            await link.publish("r", b"x")
        with pytest.raises(LinkDown, match="within"):
            await link.wait_up(0.01)
        broker.start()
        await reader.wait_for(LinkUpEvent)
        assert broker.retained("r") == b"kept"
        broker.stop(forget=True)
        broker.start()
        await reader.wait_for(LinkUpEvent)
        assert broker.retained("r") is None


async def test_a_session_that_is_over_is_forgotten() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("edge", "v", expiry=1)) as link:
        await link.wait_up(PATIENCE)
    async with broker.link(settings_for("worker")) as worker:
        await worker.wait_up(PATIENCE)
        await worker.publish("v", b"kept", qos=1)
        await asyncio.sleep(1.0)
        with pytest.raises(PublishRefused):
            await worker.publish("v", b"x", qos=1)
