"""A broker with workers and edge nodes around it: which side of which link, which cores, in which order."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from broker import launcher
from flexspec_mq import waiting
from flexspec_mq.demo.children import NO_FILE, python
from flexspec_mq.demo.recording import until_ready
from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.metrics import figures
from lab.testbed.process import Process, Processes, pinned

Side = Literal["device", "cloud"]
Say = Callable[[str], None]
LOOPBACK = "loopback"
"""Instead of a link's name: none."""
QUICK_STATUS = ("--status-every", "1")
"""Flags of a worker that others are to know soon."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core each side computes on; the same one where there is only one.

    Attributes:
        cloud: cores of broker and workers.
        device: cores of edge nodes and their users.
    """

    cloud: int
    device: int

    @classmethod
    def of_this_process(cls) -> Cores:
        """The first two that we may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[min(1, len(allowed) - 1)])


@dataclass(slots=True)
class Daemon:
    """A worker or an edge node that serves.

    Attributes:
        process: process of the daemon.
        port: port of its HTTP server: figures of a worker, the API of an edge node.
        ready: line that it said when it was ready.
    """

    process: Process
    port: int
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of its HTTP server."""
        return f"http://{self.ready.get('host', '127.0.0.1')}:{self.port}"

    async def figures(self) -> dict[str, float]:
        """Read its ``/metrics``; only without a link."""
        return await figures(self.port)


@dataclass(slots=True)
class LocalDeployment:
    """Made by `local_deployment`.

    Attributes:
        processes: all of them.
        link: between device and cloud; None is loopback.
        cores: None lets every process use all.
        folder: place of their logs; None keeps the end of what they say.
        port: the broker's, once it runs.
        broker: process of the broker, once it runs.
    """

    processes: Processes
    link: NetnsLink | None
    cores: Cores | None
    folder: Path | None
    with_us: signal.Signals
    port: int = 0
    broker: Process | None = None

    @property
    def host(self) -> str:
        """The broker's address, as both sides reach it."""
        return "127.0.0.1" if self.link is None else self.link.address_b

    @property
    def at_broker(self) -> Sequence[str]:
        """Flags that name the broker; what follows them may say otherwise, or name a file."""
        # Nobody else is on a link of our own.
        return (*NO_FILE, "--broker", f"{self.host}:{self.port}", "--insecure")

    def on(self, side: Side, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on a side."""
        if self.link is not None:
            command = self.link.inside("a" if side == "device" else "b", command)
        if self.cores is not None:
            command = pinned(self.cores.device if side == "device" else self.cores.cloud, command)
        return [*command]

    async def start(
        self, name: str, side: Side, command: Sequence[str], say: Say | None = None, *, terminal: bool = False
    ) -> Process:
        """Start a program on a side; see `Process.start`."""
        log = None if self.folder is None else self.folder / f"{name}.log"
        return await self.processes.start(
            name, self.on(side, command), log=log, with_us=self.with_us, terminal=terminal, say=say
        )

    async def start_broker(self, *flags: str, say: Say | None = None) -> Process:
        """Start the broker, on a free port, and wait until it answers.

        Args:
            flags: ones of ``flexspec-broker run``.
            say: told what it says, unless that goes to a file.
        """
        # Nothing but the other side can reach a side of a link.
        where = () if self.link is None else ("--host", self.host, "--insecure-anywhere")
        command = python("broker", "run", "--ready-json", *where, *flags, *NO_FILE)
        self.broker = await self.start("broker", "cloud", command, say)
        self.port = (await self.broker.event(lambda event: "port" in event, waiting.STARTS))["port"]
        return self.broker

    async def worker(
        self, name: str, *flags: str, program: Sequence[str] = ("cloud_worker",), say: Say | None = None
    ) -> Daemon:
        """Start a worker and wait until it serves.

        Args:
            name: on topics.
            flags: ones of ``flexspec-cloud``.
            program: module, and arguments before the flags, of a worker that is more than that.
            say: told what it says, unless that goes to a file.
        """
        port = free_port()
        own = ("--worker", name, "--metrics-port", str(port), "--ready-json")
        command = python(*program, *self.at_broker, *own, *flags)
        process = await self.start(name, "cloud", command, say)
        return Daemon(process, port, await process.event(lambda event: "ready" in event))

    async def edge(
        self, name: str, *flags: str, program: Sequence[str] = ("edge_node",), say: Say | None = None
    ) -> Daemon:
        """Start an edge node with its API and wait until that answers; on loopback, until it knows a worker.

        Arguments are as of `worker`.
        """
        own = ("--edge", name, "--api-port", "0", "--ready-json")
        command = python(*program, "serve", *self.at_broker, *own, *flags)
        process = await self.start(name, "device", command, say)
        ready = await process.event(lambda event: "port" in event)
        edge = Daemon(process, ready["port"], ready)
        if self.link is None:
            await until_ready(name, edge.url)
        return edge


@asynccontextmanager
async def local_deployment(
    *,
    link: LinkPlan | None = None,
    cores: Cores | None = None,
    logs: bool = False,
    with_us: signal.Signals = signal.SIGKILL,
) -> AsyncIterator[LocalDeployment]:
    """A place for a broker and daemons; ends all that was started there, the newest first.

    Args:
        link: between device and cloud; None is none.
        cores: cores of each side.
        logs: true if words of processes go to files of a folder that is removed in the end.
        with_us: signal that they receive when the thread that started them ends (Linux).

    Raises:
        UsageError: no root, no TUN device.
    """
    async with AsyncExitStack() as stack:
        # The link goes last: its end would take the processes on it along, without a word.
        made = None if link is None else stack.enter_context(netns_link(link))
        temporary = partial(tempfile.TemporaryDirectory, prefix="flexspec-site-")
        folder = Path(stack.enter_context(temporary())) if logs else None
        yield LocalDeployment(await stack.enter_async_context(Processes()), made, cores, folder, with_us)


@asynccontextmanager
async def with_broker() -> AsyncIterator[LocalDeployment]:
    """A place on loopback with a broker, where what daemons say goes to files."""
    async with local_deployment(logs=True) as here:
        await here.start_broker()
        yield here


def free_port() -> int:
    """A port of loopback that nobody listens on; no outgoing connection takes it before it is bound."""
    return launcher.free_port("127.0.0.1")
