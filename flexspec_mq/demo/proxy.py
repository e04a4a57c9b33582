"""`Proxy`: an emulated link for TCP connections, where there is no root for network namespaces.

It ends TCP on both sides and carries the bytes with the delay and the rate of a link. It cannot show TCP itself: a
full queue makes the sender wait, a cut stalls, and connecting costs no round trip. It counts payload bytes, not IP
bytes. `flexspec link proxy`, of the laboratory, adds jitter, loss and outages.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Protocol, Self

from flexspec_mq import waiting
from flexspec_mq.daemon.tasks import ended
from flexspec_mq.errors import UsageError
from flexspec_mq.links import LinkProfile

Address = tuple[str, int]
Way = Literal["up", "down"]
"""``up`` is from side a, the device, to side b, the cloud."""
WAYS: tuple[Way, Way] = ("up", "down")
_LARGEST_CHUNK, _SEGMENT = 16_384, 1448
_CHUNK_SECONDS = 0.005
_QUEUE_SECONDS = 0.25
"""Time at the link's rate for which bytes wait, as buffers of mobile networks have at least."""
_MOST_CHUNKS = 10_000
"""Chunks of one connection that wait for their time; the queue of a way is full long before."""


class Impaired(Protocol):
    """A way of a link. Times are seconds since the link came up, in their order."""

    def rate(self, now: float) -> float:
        """Bits per second."""

    def room_at(self, now: float) -> float:
        """When the queue is no longer over full; not before `now`."""

    def hold(self, now: float, size: int) -> float:
        """When bytes that came in at `now` go out."""


class SteadyWay:
    """A way of a steady link: a queue in front of a constant rate, and then a constant delay.

    Args:
        delay: seconds.
        rate: Mbit/s.
    """

    def __init__(self, delay: float, rate: float) -> None:
        self._delay, self._rate, self._free = delay, 1e6 * rate, 0.0

    def rate(self, _now: float) -> float:
        """See `Impaired`."""
        return self._rate

    def room_at(self, now: float) -> float:
        """See `Impaired`."""
        return max(now, self._free - _QUEUE_SECONDS)

    def hold(self, now: float, size: int) -> float:
        """See `Impaired`."""
        self._free = max(now, self._free) + 8 * size / self._rate
        return self._free + self._delay


class Proxy:
    """A link for connections to a target. The client's side is a, the target's side is b.

    Args:
        up, down: both ways.
        target: host and port to connect to.
        begins: seconds of the link at which it comes up.

    Attributes:
        host, port: where it listens.
        connections: accepted so far.
        carried: payload bytes delivered so far, both ways.
    """

    def __init__(self, up: Impaired, down: Impaired, target: Address, begins: float = 0.0) -> None:
        self.host, self.port = "", 0
        self.connections = self.carried = 0
        self._target = target
        self._ways: dict[Way, Impaired] = {"up": up, "down": down}
        self._handlers: set[asyncio.Task[None]] = set()
        self._start = time.monotonic() - begins
        self._stalled_until = dict.fromkeys(WAYS, 0.0)

    @classmethod
    def steady(cls, link: LinkProfile, target: Address) -> Self:
        """A link that does not change."""
        delay = link.trip / 2000
        return cls(SteadyWay(delay, link.up), SteadyWay(delay, link.down), target)

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Carry connections until the block is left; port 0 takes a free one.

        Raises:
            UsageError: the address cannot be listened on.
        """
        try:
            server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise UsageError(f"{host}:{port} cannot be listened on: {error.strerror}") from None
        self.host, self.port = server.sockets[0].getsockname()[:2]
        try:
            yield self
        finally:
            server.close()
            await ended(self._handlers)
            await server.wait_closed()

    def stall(self, seconds: float, ways: Sequence[Way] = WAYS) -> None:
        """Carry nothing for a while, one way or both; what is under way arrives after it, and connections stay."""
        self._stalled_until |= dict.fromkeys(ways, self.now() + seconds)

    def cut(self) -> None:
        """End all connections at once, as a machine does that has lost them."""
        for task in self._handlers:
            task.cancel()

    def now(self) -> float:
        """Time of the link, in seconds."""
        return time.monotonic() - self._start

    def went_out(self, _way: Way, size: int, _late: float) -> None:
        """Count bytes that one way delivered, `late` seconds after they were due."""
        self.carried += size

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task of ours; one that `asyncio.start_server` makes complains when cancelled."""
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer), name="link-connection")
        self._handlers.add(task)

        def over(_task: asyncio.Task[None]) -> None:
            self._handlers.discard(task)
            writer.transport.abort()

        task.add_done_callback(over)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until both sides have ended it, or one breaks."""
        try:
            async with asyncio.timeout(2 * waiting.CONNECT):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
        except (OSError, TimeoutError):
            return
        try:
            await self._carry((reader, far_writer), (far_reader, writer))
            await _close(writer, far_writer)
        finally:
            far_writer.transport.abort()

    async def _carry(
        self,
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        down: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for way, (reader, writer) in zip(WAYS, (up, down), strict=True):
                    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_CHUNKS)
                    tasks.create_task(self._read_loop(self._ways[way], reader, held), name=f"link-{way}-read")
                    tasks.create_task(self._write_loop(way, writer, held), name=f"link-{way}-write")
        except* OSError:  # one side broke the connection; both lose it
            for _, writer in (up, down):
                writer.transport.abort()

    async def _read_loop(
        self, way: Impaired, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            if (wait := way.room_at(self.now()) - self.now()) > 0:
                await asyncio.sleep(wait)
            size = max(_SEGMENT, min(_LARGEST_CHUNK, int(way.rate(self.now()) / 8 * _CHUNK_SECONDS)))
            chunk = await reader.read(size)
            await held.put((way.hold(self.now(), len(chunk)) if chunk else self.now(), chunk))
            if not chunk:
                return

    async def _write_loop(
        self, way: Way, writer: asyncio.StreamWriter, held: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            due, chunk = await held.get()
            while (due := max(due, self._stalled_until[way])) > self.now():  # noqa: ASYNC110  a stall may come meanwhile
                await asyncio.sleep(due - self.now())
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            late = self.now() - due
            writer.write(chunk)
            await writer.drain()
            self.went_out(way, len(chunk), late)


async def _close(*writers: asyncio.StreamWriter) -> None:
    """Close after what is still buffered."""
    for writer in writers:
        writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2 * waiting.CONNECT):
            for writer in writers:
                await writer.wait_closed()
