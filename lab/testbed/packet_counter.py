"""Counter between the broker and a client of what that receives: MQTT messages by kind of topic, and bytes of IP.

The client's TCP connection ends here, and Linux counts the segments of it, retransmitted ones and acknowledgements
included.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket
    from collections.abc import AsyncIterator

HEADERS = 52
"""Bytes of a segment before its payload: IPv4 20, TCP 20, timestamps 12."""
_PUBLISH = 3
_SEGMENTS = struct.Struct("=128xQII56xQ")
"""Fields of Linux' ``struct tcp_info``: bytes received, segments sent, segments received, bytes sent."""
_NAMES = {"h": "catalogue", "k": "key set", "w": "worker status", "e": "edge status", "v": "verdicts"}


@dataclass(frozen=True, slots=True)
class Received:
    """Messages and bytes that a client has received, and sent, until a moment.

    Attributes:
        messages: PUBLISH packets to the client, by kind of topic.
        mqtt: bytes of these.
        ip_down: bytes of IP to the client, acknowledgements and keep-alive included.
        ip_up: bytes of IP from it.
    """

    messages: Counter[str]
    mqtt: Counter[str]
    ip_down: int
    ip_up: int

    def __sub__(self, before: Received) -> Received:
        return Received(
            self.messages - before.messages,
            self.mqtt - before.mqtt,
            self.ip_down - before.ip_down,
            self.ip_up - before.ip_up,
        )


@dataclass(slots=True)
class Publishes:
    """Cuts a stream to a client into MQTT packets, and counts those that bring a message.

    Attributes:
        messages: number by kind of topic.
        mqtt: bytes of these, headers of MQTT included.
    """

    messages: Counter[str] = field(default_factory=Counter)
    mqtt: Counter[str] = field(default_factory=Counter)
    _left: bytes = b""

    def begin(self) -> None:
        """A new connection."""
        self._left = b""

    def feed(self, data: bytes) -> None:
        """Take what comes next."""
        self._left += data
        while (head := body_of(self._left)) is not None and len(self._left) >= sum(head):
            start, length = head
            packet, self._left = self._left[: start + length], self._left[start + length :]
            if packet[0] >> 4 == _PUBLISH:
                size = int.from_bytes(packet[start : start + 2])
                topic = packet[start + 2 : start + 2 + size].decode("utf-8", "replace").split("/")
                kind = _NAMES.get(topic[1], "other") if len(topic) > 1 else "other"
                self.messages[kind] += 1
                self.mqtt[kind] += len(packet)


class PacketCounter:
    """Made by `packet_counter`.

    Attributes:
        port: port that a client connects to instead of the broker's.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._publishes = Publishes()
        self._ended = [0, 0]
        self._clients: set[TransportSocket] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def received(self) -> Received:
        """Load that all connections through it have carried."""
        down, up = self._ended
        for one in self._clients:
            more_down, more_up = _carried(one)
            down, up = down + more_down, up + more_up
        return Received(self._publishes.messages.copy(), self._publishes.mqtt.copy(), down, up)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client."""
        task = asyncio.create_task(self._serve(reader, writer), name="tap")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: TransportSocket = writer.get_extra_info("socket")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        publishes = self._publishes
        publishes.begin()
        self._clients.add(client)
        broker = None
        try:
            from_broker, broker = await asyncio.open_connection("127.0.0.1", self._target)
            broker.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, broker, None))
                group.create_task(_carry(from_broker, writer, publishes))
        except* OSError:
            pass
        finally:
            self._clients.discard(client)
            with contextlib.suppress(OSError):
                self._ended = [one + more for one, more in zip(self._ended, _carried(client), strict=True)]
            for one in (writer, broker):
                if one is not None:
                    one.close()


@asynccontextmanager
async def packet_counter(target: int) -> AsyncIterator[PacketCounter]:
    """A counter before a broker's port on loopback, for one client at a time."""
    found = PacketCounter(target)
    server = await asyncio.start_server(found.accept, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await found.close()


def body_of(data: bytes | bytearray, at: int = 0) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins, and its length; None before that has come."""
    length = 0
    for place in range(at + 1, min(len(data), at + 5)):
        length |= (data[place] & 0x7F) << 7 * (place - at - 1)
        if data[place] < 0x80:
            return place + 1, length
    return None


def _carried(client: TransportSocket) -> tuple[int, int]:
    """Bytes of IP to a client, and from it."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS.size)
    received, segments_out, segments_in, sent = _SEGMENTS.unpack(info)
    return sent + HEADERS * segments_out, received + HEADERS * segments_in


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, publishes: Publishes | None
) -> None:
    while data := await reader.read(2**16):
        if publishes is not None:
            publishes.feed(data)
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
