"""`proxy_link`: an emulated link for TCP connections, where there is no root for namespaces.

It ends TCP on both sides and carries the bytes with the delay, jitter and rate of a profile. It cannot show
TCP itself: a lost packet becomes a pause of one retransmission timeout, a full queue makes the sender wait, an outage
stalls, and connecting costs no round trip. It counts payload bytes, not IP bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from flexspec_mq.daemon.tasks import ended
from flexspec_mq.errors import UsageError
from flexspec_mq.settings.values import is_loopback
from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.impairment import SEGMENT, Impairment
from lab.testbed.link.profiles import WAYS, LinkPlan, Way, built_in

Address = tuple[str, int]
_LARGEST_CHUNK = 16_384
_CHUNK_SECONDS = 0.005
_MAX_WAITING = 10_000
"""Chunks of one connection that wait for their time; the queue of the profile is reached long before."""
_PATIENCE = 10.0
"""Seconds for connecting to the target, and for handing over the last bytes."""


class ProxyLink:
    """Made by `proxy_link`. The client's side is a, the target's side is b.

    Attributes:
        plan: link to emulate.
        host, port: where it listens.
        connections: accepted so far.
    """

    def __init__(self, plan: LinkPlan, target: Address) -> None:
        self.plan = plan
        self.host, self.port = "", 0
        self.connections = 0
        self._target = target
        self._ways = {way: Impairment(plan, way) for way in WAYS}
        self._handlers: set[asyncio.Task[None]] = set()
        self._counters = LinkCounters(self._ways["up"].counters, self._ways["down"].counters, unit="payload")
        self._start = time.monotonic()
        self._stalled_until = dict.fromkeys(WAYS, 0.0)

    @property
    def counters(self) -> LinkCounters:
        """Chunks and payload bytes so far."""
        self._counters.seconds = self._now() - self.plan.begins_s
        return self._counters

    def stall(self, seconds: float, ways: Sequence[Way] = WAYS) -> None:
        """Carry nothing for a while, one way or both; what is under way arrives after it, and connections stay."""
        self._stalled_until |= dict.fromkeys(ways, self._now() + seconds)

    def cut(self) -> None:
        """End all connections at once, as a machine does that has lost them."""
        for task in self._handlers:
            task.cancel()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection in a task of ours; one that `asyncio.start_server` makes complains when cancelled."""
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer), name="link-connection")
        self._handlers.add(task)

        def ended(_task: asyncio.Task[None]) -> None:
            self._handlers.discard(task)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def close(self) -> None:
        """End everything."""
        await ended(self._handlers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until both sides have ended it, or one breaks."""
        try:
            async with asyncio.timeout(_PATIENCE):
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
                for way, ends in zip(WAYS, (up, down), strict=True):
                    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_WAITING)
                    impairment = self._ways[way]
                    tasks.create_task(self._read_loop(impairment, ends[0], waiting), name=f"link-{way}-read")
                    tasks.create_task(self._write_loop(way, ends[1], waiting), name=f"link-{way}-write")
        except* OSError:  # one side broke the connection; both lose it
            for _, writer in (up, down):
                writer.transport.abort()

    async def _read_loop(
        self, way: Impairment, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            if (wait := way.room_at(self._now()) - self._now()) > 0:
                await asyncio.sleep(wait)
            size = max(SEGMENT, min(_LARGEST_CHUNK, int(way.rate(self._now()) / 8 * _CHUNK_SECONDS)))
            chunk = await reader.read(size)
            due = way.hold(self._now(), len(chunk)) if chunk else self._now()
            await waiting.put((due, chunk))
            if not chunk:
                return

    async def _write_loop(
        self, way: Way, writer: asyncio.StreamWriter, waiting: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            due, chunk = await waiting.get()
            while (due := max(due, self._stalled_until[way])) > self._now():  # noqa: ASYNC110  a stall may come meanwhile
                await asyncio.sleep(due - self._now())
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            late = self._now() - due
            writer.write(chunk)
            await writer.drain()
            self._counters.went_out(self._ways[way].counters, len(chunk), late)

    def _now(self) -> float:
        return time.monotonic() - self._start + self.plan.begins_s


@asynccontextmanager
async def proxy_link(
    profile: str | LinkPlan,
    target: Address,
    *,
    listen: Address = ("127.0.0.1", 0),
    insecure_anywhere: bool = False,
) -> AsyncIterator[ProxyLink]:
    """Carry TCP connections to `target` over an emulated link, until the block is left.

    Args:
        profile: name of a built-in profile, or a plan.
        target: host and port to connect to.
        listen: host and port; port 0 takes a free one.
        insecure_anywhere: listen on an address that is not loopback, without TLS or authentication.

    Raises:
        UsageError: no such profile, an address that must not or cannot be listened on.
    """
    plan = profile if isinstance(profile, LinkPlan) else LinkPlan(profile, built_in().get(profile))
    if not insecure_anywhere and not is_loopback(listen[0]):
        raise UsageError(
            f"{listen[0]} is not loopback, and a proxy has no authentication",
            hint="listen on 127.0.0.1, or say --insecure-anywhere",
        )
    proxy = ProxyLink(plan, target)
    try:
        server = await asyncio.start_server(proxy.accept, *listen)
    except OSError as error:
        raise UsageError(f"{listen[0]}:{listen[1]} cannot be listened on: {error.strerror}") from None
    proxy.host, proxy.port = server.sockets[0].getsockname()[:2]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


async def _close(*writers: asyncio.StreamWriter) -> None:
    """Close after what is still buffered."""
    for writer in writers:
        writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            for writer in writers:
                await writer.wait_closed()
