"""Counter between the broker and a client of the bytes of IP that they exchange.

The client's TCP connection ends here, and Linux counts the segments of it, retransmitted ones and acknowledgements
included.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

HEADERS = 52
"""Bytes of a segment before its payload: IPv4 20, TCP 20, timestamps 12."""
_SEGMENTS = struct.Struct("=128xQII56xQ")
"""Fields of Linux' ``struct tcp_info``: bytes received, segments sent, segments received, bytes sent."""


class Carried(NamedTuple):
    """Bytes of IP to a client and from it until a moment, acknowledgements and keep-alive included."""

    ip_down: int = 0
    ip_up: int = 0

    def since(self, before: Carried) -> Carried:
        """Bytes since an earlier moment."""
        return Carried(self.ip_down - before.ip_down, self.ip_up - before.ip_up)


class PacketCounter:
    """Made by `packet_counter`.

    Attributes:
        port: port that a client connects to instead of the broker's.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._ended = Carried()
        self._clients: set[TransportSocket] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def carried(self) -> Carried:
        """Load that all connections through it have carried."""
        every = (self._ended, *map(_carried, self._clients))
        return Carried(sum(one.ip_down for one in every), sum(one.ip_up for one in every))

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
        self._clients.add(client)
        broker = None
        try:
            from_broker, broker = await asyncio.open_connection("127.0.0.1", self._target)
            broker.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, broker))
                group.create_task(_carry(from_broker, writer))
        except* OSError:
            pass
        finally:
            self._clients.discard(client)
            with contextlib.suppress(OSError):
                more = _carried(client)
                self._ended = Carried(self._ended.ip_down + more.ip_down, self._ended.ip_up + more.ip_up)
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


def _carried(client: TransportSocket) -> Carried:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS.size)
    received, segments_out, segments_in, sent = _SEGMENTS.unpack(info)
    return Carried(sent + HEADERS * segments_out, received + HEADERS * segments_in)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
