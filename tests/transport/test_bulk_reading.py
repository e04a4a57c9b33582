"""Messages taken apart in bulk, beside paho, from any pieces of the stream."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from flexspec_mq.transport.base import Inbound
from flexspec_mq.transport.bulk_reading import BULK, BulkReader

TOPICS = st.sampled_from(("f1/d/w/a", "f1/o/base/b", "ü/x", "t"))
PROPERTIES = st.sampled_from((b"", b"\x02\x00\x00\x00\x05", b"\x26\x00\x01a\x00\x01b" * 20))
"""None, an expiry, and more than the quick way takes."""
MESSAGES = st.lists(
    st.tuples(TOPICS, st.binary(max_size=300), st.integers(0, 1), st.booleans(), PROPERTIES), max_size=12
)


def length(size: int) -> bytes:
    low, rest = size & 127, size >> 7
    return bytes((low | 128,)) + length(rest) if rest else bytes((low,))


def packet(topic: str, payload: bytes, qos: int, retain: bool, properties: bytes, number: int) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (number.to_bytes(2, "big") if qos else b"")
    body += length(len(properties)) + properties + payload
    return bytes((0x30 | qos << 1 | retain,)) + length(len(body)) + body


class World:
    """A real client on one end of a pair of sockets."""

    def __init__(self, wanted: set[str] | None = None) -> None:
        self.ours, self.broker = socket.socketpair()
        self.ours.setblocking(False)
        self.got: list[Inbound] = []
        self.asked: list[tuple[str, int]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._from_paho
        self.client._sock = self.ours
        self._wanted = wanted
        self.reader = BulkReader(self.client, self._wants, self.got.append)

    def _wants(self, topic: str, size: int) -> bool:
        self.asked.append((topic, size))
        return self._wanted is None or topic in self._wanted

    def _from_paho(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        self.got.append(Inbound(message.topic, bytes(message.payload), message.qos, message.retain))

    def feed(self, data: bytes) -> None:
        self.broker.sendall(data)
        self.reader.read()

    def written(self) -> bytes:
        while self.client.want_write():
            self.client.loop_write()
        self.broker.setblocking(False)
        try:
            return self.broker.recv(2**16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.ours.close()
        self.broker.close()


@given(MESSAGES, st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_all_messages_come_in_order_however_the_stream_is_cut(
    messages: list[tuple[str, bytes, int, bool, bytes]], cuts: list[int]
) -> None:
    world = World()
    stream = b"".join(packet(*message, number=1 + place) for place, message in enumerate(messages))
    place = 0
    while stream:
        cut = cuts[place % len(cuts)]
        world.feed(stream[:cut])
        stream, place = stream[cut:], place + 1
    assert world.got == [Inbound(topic, payload, qos, retain) for topic, payload, qos, retain, _ in messages]
    numbers = [1 + place for place, message in enumerate(messages) if message[2]]
    written = world.written()
    # Acknowledged once each; those of paho's own may come in between, and as soon.
    assert sorted(written[at : at + 4] for at in range(0, len(written), 4)) == sorted(
        b"\x40\x02" + number.to_bytes(2, "big") for number in numbers
    )
    world.close()


def test_what_is_not_wanted_is_acknowledged_and_not_delivered() -> None:
    world = World(wanted={"t"})
    world.feed(
        packet("evil", b"x" * 50, 1, False, b"", 7)
        + packet("t", b"y", 0, True, b"", 0)
        + packet("evil", b"", 0, False, b"", 0)
    )
    assert world.got == [Inbound("t", b"y", 0, True)]
    assert world.asked == [("evil", 50), ("t", 1), ("evil", 0)]
    assert world.reader.unwanted == 2
    assert world.written() == b"\x40\x02\x00\x07"
    world.close()


def test_a_large_message_comes_once_it_is_whole() -> None:
    world = World()
    world.broker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BULK)
    data = packet("t", bytes(3 * BULK), 0, False, b"", 0)
    for at in range(0, len(data), BULK // 2):
        assert not world.got
        world.feed(data[at : at + BULK // 2])
    assert world.got == [Inbound("t", bytes(3 * BULK))]
    world.close()


def test_other_packets_are_left_to_paho() -> None:
    world = World()
    world.feed(packet("t", b"1", 0, False, b"", 0) + b"\xd0\x00" + packet("t", b"2", 0, False, b"", 0))
    assert [one.payload for one in world.got] == [b"1", b"2"]
    world.close()


def test_the_end_of_the_stream_is_told_to_paho() -> None:
    world = World()
    ended: list[object] = []
    world.client.on_disconnect = lambda *_args: ended.append(_args)
    world.broker.sendall(packet("t", b"1", 0, False, b"", 0)[:-1])
    world.broker.close()
    world.reader.read()
    world.reader.read()
    assert ended
    assert world.client.socket() is None
    world.close()


def test_a_length_that_never_ends_breaks_the_connection() -> None:
    world = World()
    world.feed(b"\x30\xff\xff\xff\xff\xff\x01")
    assert world.client.socket() is None
    assert not world.got
    world.close()
