"""A TCP proxy between a client and a broker, to cut, stall, delay and count. Needs no root."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards connections to one address. Made by `proxy_to`.

    Attributes:
        delay: seconds added to each chunk, each way.
        connections: accepted so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self.connections = 0
        self.port = 0
        self.server: asyncio.Server | None = None
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._down: set[asyncio.Event] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break all connections with a reset."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Hold all bytes back; connections stay."""
        self._flowing.clear()

    def freeze(self) -> None:
        """Hold all bytes back that come down the connections there are; they stay, and new ones are as ever.

        As where the broker's TCP waits after an outage until it sends again.
        """
        for going in self._down:
            going.clear()

    def stop_listening(self) -> None:
        """Take no more connections; those that are there go on."""
        if self.server is not None:
            self.server.close()

    def resume(self) -> None:
        """Let the bytes flow again."""
        self._flowing.set()
        for going in self._down:
            going.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            self._writers.add(up_writer)
            going = asyncio.Event()
            going.set()
            self._down.add(going)
            try:
                pumps = [
                    asyncio.create_task(self._pump(reader, up_writer, self._flowing)),
                    asyncio.create_task(self._pump(up_reader, writer, going)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self._down.discard(going)
                self._writers.discard(up_writer)
                up_writer.transport.abort()
        except ConnectionError:
            return
        finally:
            self._handlers.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def close(self) -> None:
        """End everything.

        The handlers end by themselves, as their connections are broken: Python 3.11 shows one that is cancelled as an
        error of its own.
        """
        await asyncio.sleep(0)  # a connection that was just accepted has its handler now
        self.delay = 0.0
        self.resume()
        self.cut()
        await asyncio.gather(*self._handlers)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, going: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                await going.wait()
                writer.write(chunk)
                await writer.drain()


@asynccontextmanager
async def proxy_to(host: str, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy on a free loopback port."""
    proxy = Proxy(host, port)
    proxy.server = server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
