"""A connection over which nothing comes any more is replaced, if another one can be had; real brokers and sockets."""

import asyncio
import random
import socket
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from broker.deployment.certificates import make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq import waiting
from flexspec_mq.daemon.retry import Waiting
from flexspec_mq.errors import LinkDown
from flexspec_mq.transport.base import (
    Inbound,
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Subscription,
    TlsSettings,
)
from flexspec_mq.transport.mqtt import MqttLink, mqtt_link
from flexspec_mq.transport.sockets import connect, open_socket
from flexspec_mq.waiting import ANSWER as LEAST
from tests.transport.proxy import Proxy, proxy_to
from tests.transport.reading import PATIENCE, Reader, connection_of, linked


def settings_for(port: int, client: str, topic: str = "", **more: Any) -> LinkSettings:
    subscriptions = (Subscription(topic, 1),) if topic else ()
    return replace(
        LinkSettings(port=port, client_id=client, subscriptions=subscriptions, session_expiry=60), **more
    )


@pytest.mark.parametrize("qos", [0, 1])
async def test_an_answer_that_is_stuck_comes_over_another_connection(
    mosquitto: PrivateBroker, proxy: Proxy, qos: int
) -> None:
    """The broker has the question and has sent the answer; only the way back stands still."""
    ask, answer = f"stuck/{qos}/ask", f"stuck/{qos}/answer"
    async with (
        linked(settings_for(mosquitto.port, f"stuck worker {qos}", ask)) as worker,
        mqtt_link(settings_for(proxy.port, f"stuck device {qos}", answer)) as device,
    ):
        there, here = Reader(worker), Reader(device)
        await here.wait_for(LinkUpEvent)
        proxy.freeze()
        began = time.monotonic()
        asking = asyncio.create_task(device.publish(ask, b"?", qos=qos))
        assert await there.payload() == b"?"
        await worker.publish(answer, b"!", qos=1)
        assert "nothing comes any more" in (await here.wait_for(LinkDownEvent)).reason
        event = await here.next()
        while not isinstance(event, Inbound):
            event = await here.next()
        took = time.monotonic() - began
        assert event.payload == b"!"
        assert took >= LEAST
        if qos:
            with pytest.raises(LinkDown):
                await asking
        else:
            await asking
        await device.wait_up(PATIENCE)
        assert device.counters.connects == 2
        assert proxy.connections == 2
        # The next one is given twice the time, or where messages are slow nothing would ever be acknowledged.
        assert cast("MqttLink", device)._silence.timeout >= 2 * LEAST


async def test_a_silent_connection_with_tls_is_replaced_by_one_with_tls(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path, ["localhost"])
    with PrivateBroker(BrokerSettings(port=0, tls=tls)) as secure:
        async with proxy_to(secure.host, secure.port) as proxy:
            mine = settings_for(proxy.port, "sealed", host="localhost", tls=TlsSettings(ca=tls.ca))
            async with mqtt_link(mine) as link:
                reader = Reader(link)
                await reader.wait_for(LinkUpEvent)
                proxy.freeze()
                with pytest.raises(LinkDown, match="nothing came any more"):
                    await link.publish("sealed/x", b"x", qos=1, retain=True)
                await link.wait_up(PATIENCE)
                await link.publish("sealed/x", b"y", qos=1, retain=True)
                assert (link.counters.connects, proxy.connections) == (2, 2)


async def test_a_silence_that_ends_by_itself_costs_no_connection(proxy: Proxy) -> None:
    async with linked(settings_for(proxy.port, "pause")) as link:
        for _ in range(3):
            proxy.freeze()
            publishing = asyncio.create_task(link.publish("pause/x", b"x", qos=1, retain=True))
            await asyncio.sleep(LEAST / 2)
            proxy.resume()
            await publishing
        await asyncio.sleep(LEAST + 0.2)
        assert link.counters.connects == 1


async def test_a_connection_that_speaks_while_another_is_made_stays(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[socket.socket] = []

    async def slowly(settings: LinkSettings) -> socket.socket:
        reached.append(await connect(settings))
        proxy.resume()
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            reached[-1].close()
            raise
        return reached[-1]

    async with linked(settings_for(proxy.port, "speaks")) as link:
        monkeypatch.setattr("flexspec_mq.transport.mqtt.connect", slowly)
        for count in (1, 2):  # what was silent once is watched as before
            proxy.freeze()
            await link.publish("speaks/x", b"x", qos=1, retain=True)
            assert len(reached) == count
            await asyncio.sleep(0.3)
        assert link.counters.connects == 1
        assert [sock.fileno() for sock in reached] == [-1, -1]


async def test_nothing_is_watched_any_more_over_a_connection_that_was_lost(proxy: Proxy) -> None:
    async with linked(settings_for(proxy.port, "timer")) as link:
        connection = connection_of(link)
        proxy.freeze()
        publishing = asyncio.create_task(link.publish("timer/x", b"x", qos=1, retain=True))
        await asyncio.sleep(0.05)
        looks = connection._looks
        assert looks is not None
        assert not looks.cancelled()
        proxy.cut()
        with pytest.raises(LinkDown):
            await publishing
        assert looks.cancelled()


async def test_a_slow_connack_is_a_slow_broker(proxy: Proxy) -> None:
    proxy.delay = 0.3
    async with linked(settings_for(proxy.port, "connack")) as link:
        assert cast("MqttLink", link)._silence.timeout > 2 * LEAST


async def test_a_broker_that_is_slow_to_let_us_in_has_twice_the_time_at_each_try(proxy: Proxy) -> None:
    """Where a thousand come at once and none waits for long enough, none gets in."""
    proxy.delay = 0.2
    async with mqtt_link(
        settings_for(proxy.port, "twice", connect_timeout=0.15, backoff=0.02, backoff_max=0.1)
    ) as link:
        await link.wait_up(PATIENCE)
        assert link.counters.attempts_failed == 2


async def test_a_socket_that_was_reset_since_it_was_connected_is_no_failure_for_good(tmp_path: Path) -> None:
    """The broker's kernel takes connections, and resets them when the broker ends."""
    tls = make_certificates(tmp_path, ["localhost"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = settings_for(
            listener.getsockname()[1], "reset", host="localhost", tls=TlsSettings(ca=tls.ca)
        )
        plain = await connect(settings)
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await asyncio.sleep(0.05)
        with pytest.raises(LinkDown, match="ended the connection"):
            await open_socket(settings, plain)
        assert plain.fileno() == -1


async def test_where_no_other_connection_can_be_had_this_one_stays(own_mosquitto: PrivateBroker) -> None:
    """The listener is gone, the connection is not: nobody could do better than wait for it.

    Meanwhile the link is down: whatever TCP was given would come late, and all at once.
    """
    async with (
        proxy_to(own_mosquitto.host, own_mosquitto.port) as proxy,
        linked(settings_for(proxy.port, "only")) as link,
    ):
        proxy.freeze()
        proxy.stop_listening()
        publishing = asyncio.create_task(link.publish("only/x", b"x", qos=1, retain=True))
        reader = Reader(link)
        assert await reader.wait_for(LinkUpEvent) == LinkUpEvent(1)
        await reader.wait_for(LinkDownEvent)
        await asyncio.sleep(LEAST)
        link.reconnect("a text waits for the link")
        with pytest.raises(LinkDown, match="nothing comes any more"):
            await link.publish("only/y", b"y")
        proxy.resume()
        await publishing
        assert await reader.wait_for(LinkUpEvent) == LinkUpEvent(1)
        await link.publish("only/x", b"z", qos=1, retain=True)
        assert (link.counters.connects, link.counters.disconnects) == (1, 0)


async def test_whoever_waits_ends_the_pause_after_a_connection_that_lived_short(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    async with mqtt_link(settings_for(proxy.port, "flap", backoff=0.2, backoff_max=3600.0)) as link:
        reader = Reader(link)
        for _ in range(14):  # the pauses: 0.2, 0.4, 0.8 s, and at last half an hour
            await reader.wait_for(LinkUpEvent)
            proxy.cut()
            await reader.wait_for(LinkDownEvent)
            link.reconnect("somebody waits")
        await link.wait_up(PATIENCE)


async def test_whoever_waits_has_the_next_attempt_soon(
    own_mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    ends: list[float] = []  # when each pause of the patient one would be over
    longest = 0.0

    def noted(wait: Waiting) -> None:
        nonlocal longest
        longest = wait.delay
        ends.append(time.monotonic() + wait.delay)

    patient = settings_for(own_mosquitto.port, "patient", backoff=0.2, backoff_max=60.0)
    monkeypatch.setattr(waiting, "RETRY_AWAITED", 0.3)
    awaited = replace(patient, client_id="awaited", awaited=lambda: True)
    own_mosquitto.kill()
    async with mqtt_link(patient, on_wait=noted) as slow, mqtt_link(awaited) as quick:
        async with asyncio.timeout(PATIENCE):
            while longest < 10.0:  # noqa: ASYNC110  it sleeps longer and longer
                await asyncio.sleep(0.05)
        assert quick.counters.attempts_failed > len(ends)
        await asyncio.to_thread(own_mosquitto.start)
        await quick.wait_up(PATIENCE)
        assert not slow.is_up
        slow.reconnect("somebody waits")
        await slow.wait_up(PATIENCE)
        assert time.monotonic() < ends[-1]


async def test_leaving_when_another_connection_was_reached_leaks_nothing(proxy: Proxy) -> None:
    """A leaked socket would fail the run: warnings are errors."""
    async with mqtt_link(settings_for(proxy.port, "leaving")) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        proxy.freeze()
        publishing = asyncio.create_task(link.publish("leaving/x", b"x", qos=1, retain=True))
        await reader.wait_for(LinkDownEvent)
        with pytest.raises(LinkDown):
            await publishing
    assert proxy.connections == 2
