"""A deployment as `flexspec-broker init` makes it for others, with TLS and keys: on loopback, or over a link."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq import waiting
from flexspec_mq.demo.children import python
from flexspec_mq.demo.recording import until_ready
from lab.testbed.deployment import Cores, Daemon, Side, free_port
from lab.testbed.link.namespaces import inside
from lab.testbed.link.netns import NetnsLink, netns_link
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.process import Process, Processes, output, pinned

WORKER, VERSION, SITE = "w1", "base", "site"
_LOOK = 0.005
_STARTS = 0.7
"""Seconds that ``flexspec-broker run`` takes until it listens, about."""


@dataclass(slots=True)
class SecuredDeployment:
    """A broker, a worker and edge nodes that run; made by `secured_deployment`.

    Attributes:
        folder: the broker's.
        port: the broker's.
        processes: ended with the deployment.
        cores: the worker has one, all else the other.
        link: between the devices and all else, if there is one; we are on the devices' side then.
        broker: process of ``flexspec-broker run``.
        mosquitto: number of its Mosquitto's process.
        site_port: port of a broker on the devices' side that they connect to; 0 where they connect to the central one.
        site: the same two of that one.
        worker: the one worker.
        edges: edge nodes, one a device.
    """

    folder: Path
    port: int
    processes: Processes
    cores: Cores
    link: NetnsLink | None
    broker: Process = field(init=False)
    mosquitto: int = field(default=0, init=False)
    site_port: int = 0
    site: tuple[Process, int] = field(init=False)
    worker: Daemon = field(init=False)
    edges: list[Daemon] = field(default_factory=list)

    def bundle(self, role: Role, name: str) -> Path:
        """Folder that the operator hands out to a worker or a device."""
        return Deployment(self.folder).bundles.folder(role, name)

    def on(self, side: Side, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on a side and its core."""
        if side == "device":
            return pinned(self.cores.device, command)
        return pinned(self.cores.cloud, command if self.link is None else self.link.inside("b", command))

    async def start_broker(self) -> None:
        """Start the broker and wait until it answers. It has the device's core, as the worker computes on the other."""
        self.broker, self.mosquitto = await self._run(self.folder, "broker", central=True)

    async def start_site(self) -> None:
        """Start the broker on the devices' side."""
        self.site = await self._run(self.bundle(Role.SITE, SITE), SITE, central=False)

    async def _run(self, folder: Path, name: str, *, central: bool) -> tuple[Process, int]:
        command = python("broker", "run", str(folder), "--ready-json")
        if self.link is not None and central:
            command = self.link.inside("b", command)
        log = self.folder.with_name(f"{name}.log")
        process = await self.processes.start(name, pinned(self.cores.device, command), log=log)
        return process, (await process.event(lambda event: "pid" in event, waiting.BROKER_READY))["pid"]

    async def start_worker(self, *flags: str) -> None:
        """Start the worker and wait until it serves, at first or after its process was killed."""
        metrics = free_port()
        config = str(self.bundle(Role.WORKER, WORKER) / SETTINGS[Role.WORKER])
        own = ("--config", config, "--ready-json", "--metrics-port", str(metrics))
        command = self.on("cloud", python("cloud_worker", *own, *flags))
        process = await self.processes.start(WORKER, command, log=self.folder.with_name(f"{WORKER}.log"))
        self.worker = Daemon(process, metrics, await process.event(lambda event: "ready" in event))

    async def start_edge(self, name: str, *flags: str) -> None:
        """Start the edge node of a device and wait until it knows a worker."""
        config = str(self.bundle(Role.EDGE, name) / SETTINGS[Role.EDGE])
        own = ("--config", config, "--api-port", "0", "--ready-json")
        command = self.on("device", python("edge_node", "serve", *own, *flags))
        process = await self.processes.start(name, command, log=self.folder.with_name(f"{name}.log"))
        ready = await process.event(lambda event: "port" in event)
        self.edges.append(Daemon(process, ready["port"], ready))
        await until_ready(name, self.edges[-1].url)

    async def broker_away(self, seconds: float, *, site: bool = False) -> float:
        """Kill a Mosquitto as a crash would, and have it listen again after about so long. Only without a link.

        Args:
            seconds: until it listens again.
            site: the one on the devices' side.

        Returns:
            When it listened again, on the clock of `time.perf_counter`.
        """
        process, mosquitto = self.site if site else (self.broker, self.mosquitto)
        os.kill(mosquitto, signal.SIGKILL)
        until = time.perf_counter() + seconds - _STARTS
        await process.wait()
        await asyncio.sleep(until - time.perf_counter())
        starting = asyncio.create_task(self.start_site() if site else self.start_broker())
        while not _listens(self.site_port if site else self.port):  # noqa: ASYNC110  another process does
            await asyncio.sleep(_LOOK)
        back = time.perf_counter()
        await starting
        return back


async def operator(*arguments: str) -> str:
    """Output of a command of ``flexspec-broker``; errors as of `output`."""
    return await output(f"flexspec-broker {arguments[0]}", python("broker", *arguments))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def secured_deployment(
    devices: Sequence[str],
    *,
    worker_flags: Sequence[str] | None = (),
    edge_flags: Sequence[str] = (),
    more_devices: Sequence[str] = (),
    more_workers: Sequence[tuple[str, str]] = (),
    link: LinkPlan | None = None,
    site: bool = False,
) -> AsyncIterator[SecuredDeployment]:
    """Make a deployment with TLS and keys, start its daemons, and end them on leaving.

    Args:
        devices: names of those that edge nodes run for.
        worker_flags: flags of ``flexspec-cloud``; None starts no worker.
        edge_flags: flags of every ``flexspec-edge serve``.
        more_devices: names of those that only get what is handed out.
        more_workers: names and versions of workers that only get what is handed out.
        link: emulated between the devices and all else; the thread that calls is on the devices' side inside. None is
            loopback.
        site: whether devices connect to a broker on their side, which is a bridge to the central one.

    Raises:
        FlexSpecError: a command failed, or a daemon did not start; says why.
        UsageError: no root or no TUN device for a link.
    """
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="flexspec-secured-")))
        between = None if link is None else stack.enter_context(netns_link(link))
        if between is not None:
            stack.enter_context(inside(between.name_a))
        host = "127.0.0.1" if between is None else between.address_b
        folder, port = scratch / "broker", free_port()
        await operator(
            "init", str(folder), "--host", host, "--port", str(port), "--tls", "--keys", "--name", host
        )
        for name, version in ((WORKER, VERSION), *more_workers):
            await operator("add-worker", str(folder), name, "--version", version)
        site_port, there = 0, list[str]()
        if site:
            site_port, there = free_port(), ["--site", SITE]
            await operator("add-site", str(folder), SITE, "--address", f"127.0.0.1:{site_port}")
        await operator("add-device", str(folder), *devices, *more_devices, *there)
        processes = await stack.enter_async_context(Processes())
        made = SecuredDeployment(
            folder, port, processes, Cores.of_this_process(), between, site_port=site_port
        )
        await made.start_broker()
        if site:
            await made.start_site()
        if worker_flags is not None:
            await made.start_worker(*worker_flags)
        for name in devices:
            await made.start_edge(name, *edge_flags)
        yield made
