"""The proxy over real sockets on loopback."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lab.testbed.link.impairment import LEAST_RTO
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.link.proxy import proxy_link
from tests.lab.link.plans import figures, plan

PATIENCE = 60.0


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, int]]:
    """A server that sends everything back, and ends when its client does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def there_and_back(port: int, data: bytes) -> bytes:
    """Send, half-close, and read to the end."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        _, got = await asyncio.gather(send(), reader.read())
        writer.close()
        await writer.wait_closed()
    return got


async def nothing(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends, one way or the other, without another byte."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def fast(delay: float = 0.0, loss: float = 0.0, jitter: float = 0.0) -> LinkPlan:
    return plan(figures(delay=delay, rate=400, loss=loss, jitter=jitter))


async def test_bytes_arrive_whole_and_in_order_and_are_counted() -> None:
    data = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(30_000))
    async with echo() as target, proxy_link(fast(delay=2, jitter=1), target) as proxy:
        assert await there_and_back(proxy.port, data) == data
        counters = proxy.counters
    assert counters.unit == "payload"
    for way in (counters.up, counters.down):
        assert way.bytes_in == way.bytes_out == len(data)


async def test_the_rate_is_not_exceeded_by_two_connections_together() -> None:
    async with echo() as target, proxy_link(plan(figures(delay=0, rate=8, queue=20)), target) as proxy:
        began = time.monotonic()
        data = bytes(200_000)
        got = await asyncio.gather(*(there_and_back(proxy.port, data) for _ in range(2)))
        assert got == [data, data]
        assert time.monotonic() - began >= 0.4, "400 kB at 8 Mbit/s"


@pytest.mark.parametrize(
    ("link", "lost", "seconds"), [(fast(60), 0, 0.12), (fast(loss=100), 1, 2 * LEAST_RTO)]
)
async def test_each_way_takes_its_delay_and_a_timeout_for_a_loss(
    link: LinkPlan, lost: int, seconds: float
) -> None:
    async with echo() as target, proxy_link(link, target) as proxy:
        began = time.monotonic()
        assert await there_and_back(proxy.port, b"hello") == b"hello"
        assert time.monotonic() - began >= seconds
        assert proxy.counters.up.lost == proxy.counters.down.lost == lost


async def test_a_stall_holds_what_is_under_way_and_breaks_nothing() -> None:
    async with echo() as target, proxy_link(fast(delay=20.0), target) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"before")
        await asyncio.sleep(0.03)  # the echo is on its way back
        began = time.monotonic()
        proxy.stall(0.3)
        writer.write(b"meanwhile")
        assert await reader.readexactly(15) == b"beforemeanwhile"
        assert time.monotonic() - began > 0.3
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        assert proxy.connections == 1
        writer.close()


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    async with echo() as target:
        pass
    async with proxy_link(fast(), target) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with asyncio.timeout(PATIENCE):
            assert await nothing(reader)
        writer.close()


async def test_leaving_ends_connections_and_tasks() -> None:
    async with echo() as target:
        async with proxy_link(fast(delay=5000), target) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            assert await nothing(reader)
        writer.close()
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith("link-")]
