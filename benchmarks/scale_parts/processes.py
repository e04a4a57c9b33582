"""Child processes that say JSON lines, and the figures that workers serve."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.scale_parts.orders import Answer, Order, Ready
from broker.launcher import end_with_parent
from flexspec_mq.errors import FlexSpecError

_LINE = 2**27
"""Bytes of an answer at most: a minute of rounds."""
_END_WITHIN = 10.0
_READY_WITHIN = 120.0


class BenchmarkError(FlexSpecError):
    """A part of the benchmark did not do what it was asked to."""


@dataclass(slots=True)
class Child:
    """A process of ours. It ends with this one at the latest.

    Attributes:
        name: for people.
        log: what it says on standard error.
        ready: what it said when it was.
    """

    name: str
    log: Path
    process: asyncio.subprocess.Process
    ready: Ready

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def send(self, order: Order) -> None:
        """Give it an order."""
        assert self.process.stdin is not None  # noqa: S101  made with a pipe
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")

    async def answer(self, within: float) -> Answer:
        """Its next line.

        Raises:
            BenchmarkError: it ended or was silent for `within` seconds.
        """
        found: Answer = msgspec.json.decode(await self._line(within), type=Answer)
        return found

    async def _line(self, within: float) -> bytes:
        assert self.process.stdout is not None  # noqa: S101  made with a pipe
        try:
            async with asyncio.timeout(within):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise BenchmarkError(f"{self.name} said nothing for {within:g} s", hint=self._said()) from None
        if not line:
            raise BenchmarkError(f"{self.name} ended", hint=self._said())
        return line

    def _said(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:].strip() or "it gave no reason"

    async def end(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_WITHIN):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def child(name: str, folder: Path, module: str, *arguments: str) -> AsyncIterator[Child]:
    """Run ``python -m module`` inside the block, once it is ready.

    Args:
        name: for people, and of its log.
        folder: for the log.
        module: that says `Ready`, or any other line, first.
        arguments: of the module.

    Raises:
        BenchmarkError: it did not get ready.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            preexec_fn=end_with_parent(signal.SIGKILL),
            limit=_LINE,
        )
    made = Child(name, log, process, Ready())
    try:
        line = await made._line(_READY_WITHIN)  # noqa: SLF001  of the class above
        with contextlib.suppress(msgspec.ValidationError):  # a daemon of ours says something else
            made.ready = msgspec.json.decode(line, type=Ready)
        yield made
    finally:
        await made.end()


def metrics_port(log: Path) -> int:
    """Where a ``flexspec-cloud`` said that it serves its figures.

    Raises:
        BenchmarkError: nowhere.
    """
    found = re.search(r"http://[^/\s]+:(\d+)/metrics", log.read_text("utf-8", "replace"))
    if found is None:
        raise BenchmarkError("the worker did not say where its figures are")
    return int(found[1])


async def figures(port: int) -> dict[str, float]:
    """The figures of a worker, by name with labels.

    Raises:
        OSError: they are not to be had.
    """
    async with asyncio.timeout(10.0):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        page = await reader.read()
        writer.close()
    return parse_figures(page.partition(b"\r\n\r\n")[2].decode())


def parse_figures(page: str) -> dict[str, float]:
    """The samples of a page in Prometheus' text format."""
    samples = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much each figure has risen."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
