"""Packet counter: messages and bytes that a client gets from a broker, counted on the wire."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from flexspec_mq.transport.base import LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.packet_counter import HEADERS, Publishes, packet_counter
from tests.transport.reading import Reader

KINDS = {
    "h": "catalogue",
    "k": "key set",
    "w": "worker status",
    "e": "edge status",
    "v": "verdicts",
    "x": "other",
}


def packet(first: int, body: bytes) -> bytes:
    """With MQTT's length of one to four bytes."""
    length, left = b"", len(body)
    while True:
        left, low = divmod(left, 128)
        length += bytes([low | (0x80 if left else 0)])
        if not left:
            return bytes([first]) + length + body


def publish(letter: str, payload: bytes) -> bytes:
    topic = f"f1/{letter}/name".encode()
    return packet(0x30, len(topic).to_bytes(2) + topic + b"\0" + payload)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(sorted(KINDS)), st.binary(max_size=400)),
            st.tuples(st.just(""), st.binary(max_size=20)),
        ),
        max_size=12,
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
)
def test_messages_are_counted_wherever_the_stream_is_cut(
    sent: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    publishes, messages, sizes = Publishes(), Counter[str](), Counter[str]()
    stream = b""
    for letter, payload in sent:
        sent_now = publish(letter, payload) if letter else packet(0xD0, payload)  # a PINGRESP is none
        stream += sent_now
        if letter:
            messages[KINDS[letter]] += 1
            sizes[KINDS[letter]] += len(sent_now)
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        publishes.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert (publishes.messages, publishes.mqtt) == (messages, sizes)


async def test_a_client_behind_a_tap_gets_all_and_each_byte_is_counted(mosquitto: PrivateBroker) -> None:
    topic, other = "f1/h/tapped", "f1/w/tapped"
    async with (
        packet_counter(mosquitto.port) as wire,
        mqtt_link(LinkSettings(port=mosquitto.port, client_id="tap-sender")) as sender,
    ):
        wanted = (Subscription(topic), Subscription(other))
        settings = LinkSettings(port=wire.port, client_id="tap-reader", subscriptions=wanted)
        async with asyncio.timeout(20), mqtt_link(settings) as reader:
            await reader.wait_up(10.0)
            await sender.wait_up(10.0)
            before = wire.received()
            await sender.publish(topic, b"c" * 300, qos=1)
            await sender.publish(other, b"w" * 40, qos=1)
            assert await Reader(reader).payloads(2) == [b"c" * 300, b"w" * 40]
            got = wire.received() - before
        assert got.messages == {"catalogue": 1, "worker status": 1}
        assert 300 + len(topic) < got.mqtt["catalogue"] < 300 + len(topic) + 10
        total = got.mqtt.total()
        assert total + HEADERS <= got.ip_down <= total + 8 * HEADERS + 100
        await asyncio.sleep(0.1)
        assert wire.received().ip_down >= got.ip_down  # what has ended still counts
