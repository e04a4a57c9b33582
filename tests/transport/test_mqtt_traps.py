"""Each trap of MQTT, paho and aiomqtt that the link promises to keep its users out of."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq.daemon.retry import Waiting
from flexspec_mq.errors import LinkDown, LinkError, PublishRefused
from flexspec_mq.transport.base import (
    QUOTA_EXCEEDED,
    Inbound,
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
    Subscription,
)
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import MqttLink, mqtt_link
from flexspec_mq.transport.sockets import TCP_RTO_MAX_MS
from lab.testbed.deployment import free_port
from tests.transport.proxy import Proxy, proxy_to
from tests.transport.reading import PATIENCE, Reader, connection_of, linked


def settings_for(port: int, client: str, topic: str = "", **more: Any) -> LinkSettings:
    subscriptions = (Subscription(topic, 2),) if topic else ()
    base = LinkSettings(
        port=port, client_id=client, subscriptions=subscriptions, backoff=0.02, backoff_max=0.1
    )
    return replace(base, **more)


async def until_failed_attempts(link: Link, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while link.counters.attempts_failed < count:  # noqa: ASYNC110  counters have no event
            await asyncio.sleep(0.005)


async def test_nagle_is_off_on_our_socket_and_at_the_broker(mosquitto: PrivateBroker) -> None:
    """With Nagle on at either side, a round costs delayed acknowledgements of 40 ms after a quick start."""
    async with (
        linked(settings_for(mosquitto.port, "nagle e", "nagle/back")) as edge,
        linked(settings_for(mosquitto.port, "nagle w", "nagle/out")) as worker,
    ):
        sock = connection_of(edge)._socket
        assert sock is not None
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        there, here = Reader(worker), Reader(edge)
        times = []
        for _ in range(29):
            start = time.perf_counter()
            await edge.publish("nagle/out", b"x", qos=1)
            await worker.publish("nagle/back", await there.payload(), qos=1)
            await here.payload()
            times.append(time.perf_counter() - start)
        assert min(times[-9:]) < 0.035, "a busy machine takes longer for some, Nagle for all"


async def test_tcp_tries_again_every_two_seconds_where_the_kernel_can(mosquitto: PrivateBroker) -> None:
    """By itself it doubles the time between attempts, up to two minutes; docs/operators.md."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, 2000)
        except OSError:
            pytest.skip("this kernel has no bound for the time between attempts")
    async with linked(settings_for(mosquitto.port, "often", "often/back")) as link:
        sock = connection_of(link)._socket
        assert sock is not None
        assert sock.getsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS) == 2000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 10 * 60 * 1000


async def delivered(link: Link, topic: str, payload: bytes) -> bool:
    try:
        await link.publish(topic, payload, qos=1)
    except LinkDown:
        return False
    return True


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
async def test_a_publish_that_failed_is_never_delivered_by_a_later_connection(
    mosquitto: PrivateBroker, proxy: Proxy, how: str
) -> None:
    topic = f"never/{how.replace(' ', '')}"
    timeout = 0.2 if how == "times out" else 60.0
    async with (
        linked(settings_for(mosquitto.port, f"r {how}", topic)) as reading,
        mqtt_link(settings_for(proxy.port, f"w {how}", publish_timeout=timeout)) as writing,
    ):
        events = Reader(writing)
        await events.wait_for(LinkUpEvent)
        proxy.stall()
        publishing = asyncio.create_task(writing.publish(topic, b"lost", qos=1))
        if how == "is cancelled":
            await asyncio.sleep(0)
            publishing.cancel()
        with pytest.raises((LinkDown, asyncio.CancelledError)):
            await publishing
        proxy.cut()
        await events.wait_for(LinkDownEvent)
        proxy.resume()
        await events.wait_for(LinkUpEvent)
        for i in range(3):
            await writing.publish(topic, bytes((i,)), qos=1)
        assert await Reader(reading).payloads(3) == [b"\0", b"\1", b"\2"]


async def test_a_silent_broker_is_not_taken_for_a_connection(proxy: Proxy) -> None:
    """aiomqtt's client, entered again after a drop, returns before CONNACK."""
    async with mqtt_link(settings_for(proxy.port, "reentry", connect_timeout=0.1)) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        proxy.stall()
        proxy.cut()
        await reader.wait_for(LinkDownEvent)
        failed = link.counters.attempts_failed
        await until_failed_attempts(link, failed + 2)
        assert not link.is_up
        with pytest.raises(LinkDown):
            await link.publish("x", b"x", qos=1)
        proxy.resume()
        assert (await reader.wait_for(LinkUpEvent)).connection == 2


async def test_too_many_waiting_publishes_are_refused_and_counted(proxy: Proxy) -> None:
    async with linked(settings_for(proxy.port, "crowd", outbound_queue=4)) as link:
        proxy.stall()
        waiting = [asyncio.create_task(link.publish("x", b"x", qos=1, retain=False)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(PublishRefused) as refused:
            await link.publish("x", b"x", qos=1)
        assert refused.value.reason_code == QUOTA_EXCEEDED
        proxy.cut()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, LinkDown) for result in results)
        proxy.resume()
        await link.wait_up(PATIENCE)


@pytest.fixture
def narrow() -> Iterator[PrivateBroker]:
    """A broker that takes two publishes before it has acknowledged the first."""
    with PrivateBroker(BrokerSettings(port=0, max_inflight=2)) as broker:
        yield broker


async def test_the_brokers_receive_maximum_holds_publishes_back(narrow: PrivateBroker) -> None:
    async with (
        linked(settings_for(narrow.port, "r", "n/#", receive_maximum=1)) as reading,
        linked(settings_for(narrow.port, "w")) as writing,
    ):
        connection = connection_of(writing)
        assert connection.limits.receive_maximum == 2
        most = 0

        async def publish(i: int) -> None:
            nonlocal most
            await writing.publish("n/x", bytes((i,)), qos=1)
            most = max(most, len(connection._acks))

        await asyncio.gather(*(publish(i) for i in range(60)))
        assert 1 <= most <= 2
        assert await Reader(reading).payloads(60) == [bytes((i,)) for i in range(60)]


async def test_publishes_that_are_held_back_learn_of_the_end_of_the_connection(narrow: PrivateBroker) -> None:
    async with (
        proxy_to(narrow.host, narrow.port) as proxy,
        linked(settings_for(proxy.port, "held", "h", publish_timeout=60.0)) as link,
    ):
        connection = connection_of(link)
        proxy.stall()
        publishing = [asyncio.create_task(link.publish("h", b"x", qos=1)) for _ in range(9)]
        await asyncio.sleep(0)
        assert len(connection._acks) == 2
        publishing[3].cancel()
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(results.pop(3), asyncio.CancelledError)
        assert {str(result) for result in results} == {connection.lost.result()}
        assert all(isinstance(result, LinkDown) for result in results)
        with pytest.raises(LinkDown):
            await connection.send(Outbound("h", b"x", 1))
        proxy.resume()
        await link.wait_up(PATIENCE)
        await asyncio.gather(*(link.publish("h", b"y", qos=1) for _ in range(9)))


async def test_a_broker_killed_with_a_publish_under_way(own_mosquitto: PrivateBroker) -> None:
    broker = own_mosquitto
    waits: list[Waiting] = []
    settings = settings_for(broker.port, "survivor", "k/+", publish_timeout=60.0)
    async with mqtt_link(settings, on_wait=waits.append) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        broker.signal(signal.SIGSTOP)
        publishing = asyncio.create_task(link.publish("k/x", b"lost", qos=1))
        await asyncio.sleep(0)
        broker.kill()
        with pytest.raises(LinkDown):
            async with asyncio.timeout(PATIENCE):
                await publishing
        await reader.wait_for(LinkDownEvent)
        await until_failed_attempts(link, 2)
        await asyncio.to_thread(broker.start)
        await reader.wait_for(LinkUpEvent)
        await link.publish("k/x", b"after", qos=1)
        assert await reader.payload() == b"after"
    assert f"127.0.0.1:{broker.port}" in str(waits[0])
    assert "nothing listens" in str(waits[0])


async def test_keepalive_notices_a_black_hole(proxy: Proxy) -> None:
    async with mqtt_link(settings_for(proxy.port, "hole", keepalive=1)) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        proxy.stall()
        await reader.wait_for(LinkDownEvent)
        proxy.resume()
        await reader.wait_for(LinkUpEvent)


async def test_a_failure_that_nobody_met_is_raised_on_leaving() -> None:
    port = free_port()

    async def ignore_the_link() -> None:
        async with mqtt_link(settings_for(port, "untold", give_up_after=0.05)) as link:
            async with asyncio.timeout(PATIENCE):
                while not cast("MqttLink", link)._failure:  # noqa: ASYNC110  asking for it would tell us
                    await asyncio.sleep(0.005)

    with pytest.raises(LinkError, match="gave up"):
        await ignore_the_link()


async def test_leaving_while_connecting_is_prompt_and_leaks_nothing(proxy: Proxy) -> None:
    """Leaked sockets and tasks would fail the run: warnings are errors."""
    proxy.stall()
    async with mqtt_link(settings_for(proxy.port, "hasty", connect_timeout=3600.0)) as link:
        async with asyncio.timeout(PATIENCE):
            while not proxy.connections:  # noqa: ASYNC110  the proxy has no event for it
                await asyncio.sleep(0.005)
        assert not link.is_up


async def test_messages_and_acknowledgements_survive_a_thousand_cuts(
    mosquitto: PrivateBroker, proxy: Proxy
) -> None:
    """Acknowledged messages arrived, in order; failed ones may have arrived, never twice."""
    async with (
        linked(settings_for(mosquitto.port, "cuts r", "cuts/+")) as reading,
        mqtt_link(settings_for(proxy.port, "cuts w", publish_timeout=2.0)) as writing,
    ):
        acknowledged = []
        for i in range(400):
            if i % 20 == 19:
                proxy.cut()
            await writing.wait_up(PATIENCE)
            if await delivered(writing, "cuts/x", i.to_bytes(2, "big")):
                acknowledged.append(i)
        async with asyncio.timeout(PATIENCE):
            while not await delivered(writing, "cuts/x", b"end"):
                await writing.wait_up()
        reader = Reader(reading)
        while await reader.payload() != b"end":
            pass
        payloads = [event.payload for event in reader.seen if isinstance(event, Inbound)]
        got = [int.from_bytes(payload, "big") for payload in payloads[:-1]]
        assert got == sorted(set(got))
        assert set(acknowledged) <= set(got)
        assert writing.counters.connects >= 10
        assert len(acknowledged) >= 300
