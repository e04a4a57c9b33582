"""Messages taken apart in bulk, beside paho, from any pieces of the stream."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from broker.deployment.certificates import make_certificates
from flexspec_mq.transport.base import MOST_PROPERTIES, Inbound, TlsSettings
from flexspec_mq.transport.bulk_reading import BULK, BulkReader
from flexspec_mq.transport.sockets import tls_context

TOPICS = st.sampled_from(("f1/d/w/a", "f1/o/base/b", "ü/x", "t"))
_PAIR = b"\x26\x00\x01a\x00\x01b"
PROPERTIES = st.sampled_from((b"", b"\x02\x00\x00\x00\x05", _PAIR * 20, _PAIR * 3000))
"""None, an expiry, and user properties, each of which paho takes 10 µs for."""
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
        self.client._sock = self.ours
        self._wanted = wanted
        self.reader = BulkReader(self.client, self._wants, self.got.append)

    def _wants(self, topic: str, size: int) -> bool:
        self.asked.append((topic, size))
        return self._wanted is None or topic in self._wanted

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


@given(MESSAGES, st.lists(st.integers(1, 400) | st.integers(1, BULK), min_size=1, max_size=20))
def test_all_messages_come_in_order_however_the_stream_is_cut(
    messages: list[tuple[str, bytes, int, bool, bytes]], cuts: list[int]
) -> None:
    """And none by paho's way, which whoever adds properties could have us take."""
    world = World()
    stream = b"".join(packet(*message, number=1 + place) for place, message in enumerate(messages))
    place = 0
    while stream:
        cut = cuts[place % len(cuts)]
        world.feed(stream[:cut])
        stream, place = stream[cut:], place + 1
    assert world.got == [
        Inbound(topic, payload, qos, retain, raw if len(raw) <= MOST_PROPERTIES else b"")
        for topic, payload, qos, retain, raw in messages
    ]
    numbers = [1 + place for place, message in enumerate(messages) if message[2]]
    written = world.written()
    assert written == b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in numbers)
    world.close()


def test_what_is_not_wanted_is_acknowledged_and_not_delivered() -> None:
    world = World(wanted={"t"})
    world.feed(
        packet("evil", b"x" * 50, 1, False, b"", 7)
        + packet("t", b"y", 0, True, b"", 0)
        + packet("evil", b"", 0, False, _PAIR * 20, 0)
    )
    assert world.got == [Inbound("t", b"y", 0, True)]
    assert world.asked == [("evil", 51), ("t", 2), ("evil", 142)]
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


class Records:
    """The broker's end of a connection with TLS: each message is a record of its own, as Mosquitto makes them."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._came, self._made = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._made, server_side=True)

    def agree(self) -> None:
        self._came.write(self._sock.recv(2**16))
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._sock.sendall(self._made.read())

    def send(self, packets: list[bytes]) -> None:
        for one in packets:
            self._tls.write(one)
        self._sock.sendall(self._made.read())


@contextmanager
def over_tls(folder: Path) -> Iterator[tuple[World, Records]]:
    files = make_certificates(folder, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    world = World(wanted=set())
    world.ours = tls_context(TlsSettings(files.ca)).wrap_socket(
        world.ours, server_hostname="localhost", do_handshake_on_connect=False
    )
    world.client._sock = world.ours
    broker = Records(world.broker, context)
    try:
        with pytest.raises(ssl.SSLWantReadError):
            world.ours.do_handshake()
        broker.agree()
        world.ours.do_handshake()
        broker.agree()
        yield world, broker
    finally:
        world.close()


def test_over_tls_all_that_has_come_is_read_at_once(tmp_path: Path) -> None:
    """After messages that nobody wants reading pauses, so a record at a time would hold up all that come behind."""
    with over_tls(tmp_path) as (world, broker):
        broker.send([packet("evil", bytes(10), 0, False, b"", 0)] * 1000)
        world.reader.read()
        assert len(world.asked) == world.reader.unwanted == 1000


def test_over_tls_the_event_loop_has_its_turn(tmp_path: Path) -> None:
    """And whatever is left is still in the socket, of which it knows."""
    with over_tls(tmp_path) as (world, broker):
        broker.send([packet("evil", bytes(1000), 0, False, b"", 0)] * 140)
        turns = []
        while len(world.asked) < 140:
            before = len(world.asked)
            world.reader.read()
            assert isinstance(world.ours, ssl.SSLSocket)
            assert world.ours.pending() == 0
            turns.append(1000 * (len(world.asked) - before))
        assert max(turns) <= BULK + 16_384
        assert len(turns) == 3
