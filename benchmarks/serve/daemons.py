"""A broker, workers and edge nodes as processes, and what can be read of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from broker.launcher import PrivateBroker, end_with_parent
from broker.settings import BrokerSettings

_READY = 300.0
"""Seconds for a model to load and to be proved on a busy machine."""
_END = 90.0
_SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) ([-+.\w]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process takes.

    Attributes:
        memory: resident bytes.
        files: open descriptors.
        tasks: of its event loop, the one that answers included.
        sessions: texts that go on.
    """

    memory: int
    files: int
    tasks: int
    sessions: int


@dataclass(slots=True)
class Daemon:
    """A worker or an edge node that serves.

    Attributes:
        name: on topics.
        port: of its HTTP server: figures of a worker, the API of an edge node.
        log: file with what it said.
    """

    name: str
    kind: str
    port: int
    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        """Of its HTTP server."""
        return f"http://127.0.0.1:{self.port}"

    async def figures(self, http: httpx2.AsyncClient) -> dict[str, float]:
        """What its `/metrics` says, by name and labels."""
        text = (await http.get(f"{self.url}/metrics")).text
        return {name: float(value) for name, value in _SAMPLE.findall(text)}

    async def footprint(self, http: httpx2.AsyncClient) -> Footprint:
        """What it takes now."""
        found = await self.figures(http)
        own = "flexspec_edge_sessions" if self.kind == "edge_node" else "flexspec_worker_live_sessions"
        tasks = "flexspec_edge_tasks" if self.kind == "edge_node" else "flexspec_worker_tasks"
        return Footprint(
            memory=int(found["process_resident_memory_bytes"]),
            files=int(found["process_open_fds"]),
            tasks=int(found[tasks]),
            sessions=int(found[own]),
        )

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(_END):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


@dataclass(slots=True)
class Site:
    """A broker with daemons around it; `site` makes one and ends all of it.

    Attributes:
        broker: runs.
        folder: of their logs.
        daemons: that were started, ended ones included.
    """

    broker: PrivateBroker
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)

    async def worker(self, name: str, *arguments: str) -> Daemon:
        """Start a worker and wait until it serves."""
        port = free_port()
        flags = ("--worker", name, "--metrics-port", str(port), "--ready-json", "--status-every", "1")
        daemon, _ = await self._start("cloud_worker", name, port, (*flags, *arguments))
        return daemon

    async def edge(self, name: str, *arguments: str) -> Daemon:
        """Start an edge node with its API and wait until that answers, and a worker is known."""
        flags = ("--edge", name, "--api-port", "0", "--ready-json", *arguments)
        daemon, ready = await self._start("edge_node", name, 0, ("serve", *flags))
        daemon.port = ready["port"]
        async with asyncio.timeout(_READY), httpx2.AsyncClient() as http:
            while (await http.get(f"{daemon.url}/readyz")).status_code != 200:  # noqa: ASYNC110  another process knows
                await asyncio.sleep(0.05)
        return daemon

    async def _start(
        self, module: str, name: str, port: int, arguments: Sequence[str]
    ) -> tuple[Daemon, dict[str, Any]]:
        log = self.folder / f"{name}.log"
        command = [*arguments]
        where = 1 if module == "edge_node" else 0
        command[where:where] = ["--config", "/dev/null", "--broker", f"127.0.0.1:{self.broker.port}"]
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *command),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        daemon = Daemon(name, module, port, process, log)
        self.daemons.append(daemon)
        assert process.stdout is not None  # noqa: S101  made with a pipe
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY):
                line = await process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
        return daemon, json.loads(line)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A broker on a free port of loopback; ends it and all that was started around it."""
    with (
        tempfile.TemporaryDirectory(prefix="flexspec-serving-") as folder,
        PrivateBroker(BrokerSettings(port=0)) as broker,
    ):
        found = Site(broker, Path(folder))
        try:
            yield found
        finally:
            for daemon in found.daemons:
                if daemon.process.returncode is None:
                    daemon.process.kill()
                await daemon.process.wait()


async def settled(daemon: Daemon, http: httpx2.AsyncClient, patience: float = 10.0) -> Footprint:
    """What it takes once no text goes on, or after some seconds of waiting for that."""
    ends = time.monotonic() + patience
    while (found := await daemon.footprint(http)).sessions and time.monotonic() < ends:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
