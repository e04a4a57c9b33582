"""Packet counter: bytes that a client gets from a broker and sends, counted on the wire."""

import asyncio

from broker.launcher import PrivateBroker
from flexspec_mq.transport.base import LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.packet_counter import HEADERS, packet_counter
from tests.transport.reading import Reader


async def test_a_client_behind_a_counter_gets_all_and_each_byte_is_counted(mosquitto: PrivateBroker) -> None:
    topic, other = "f1/h/tapped", "f1/w/tapped"
    async with (
        packet_counter(mosquitto.port) as wire,
        mqtt_link(LinkSettings(port=mosquitto.port, client_id="tap-sender")) as sender,
    ):
        wanted = (Subscription(topic), Subscription(other))
        settings = LinkSettings(port=wire.port, client_id="tap-reader", subscriptions=wanted)
        async with asyncio.timeout(60), mqtt_link(settings) as reader:
            await reader.wait_up(10.0)
            await sender.wait_up(10.0)
            before = wire.carried()
            await sender.publish(topic, b"c" * 300, qos=1)
            await sender.publish(other, b"w" * 40, qos=1)
            assert await Reader(reader).payloads(2) == [b"c" * 300, b"w" * 40]
            got = wire.carried().since(before)
        total = 300 + 40 + len(topic) + len(other)
        assert total + HEADERS <= got.ip_down <= total + 20 + 8 * HEADERS + 100
        await asyncio.sleep(0.1)
        assert wire.carried().ip_down >= got.ip_down  # what has ended still counts
