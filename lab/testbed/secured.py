"""A deployment as `flexspec-broker init` makes it for others, with TLS and keys: on loopback, or over a link."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
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

WORKER, VERSION = "w1", "base"
_LOOK = 0.005
_STARTS = 0.7
"""Seconds that ``flexspec-broker run`` takes until it listens, about."""


class SecuredBroker:
    """``flexspec-broker run`` of a folder.

    Args:
        processes: ended with the deployment.
        folder: folder of the broker.
        port: port on which it listens.
        placed: makes a command run where the broker belongs.

    Attributes:
        port: port on which it listens.
        process: process of ``flexspec-broker run``.
        mosquitto: number of its Mosquitto's process.
    """

    def __init__(
        self, processes: Processes, folder: Path, port: int, placed: Callable[[list[str]], list[str]]
    ) -> None:
        self.process: Process
        self.mosquitto = 0
        self._processes = processes
        self._folder = folder
        self.port = port
        self._placed = placed

    async def start(self) -> None:
        """Start it and wait until it answers."""
        command = self._placed(python("broker", "run", str(self._folder), "--ready-json"))
        name, log = f"broker {self._folder.name}", self._folder.with_suffix(".log")
        self.process = await self._processes.start(name, command, log=log)
        self.mosquitto = (await self.process.event(lambda event: "pid" in event, waiting.STARTS))["pid"]

    async def away(self, seconds: float) -> float:
        """Kill Mosquitto as a crash would, and have it listen again after about so long. Only without a link.

        Returns:
            When it listened again, on the clock of `time.perf_counter`.
        """
        os.kill(self.mosquitto, signal.SIGKILL)
        until = time.perf_counter() + seconds - _STARTS
        await self.process.wait()
        await asyncio.sleep(until - time.perf_counter())
        starting = asyncio.create_task(self.start())
        while not _listens(self.port):  # noqa: ASYNC110  another process does
            await asyncio.sleep(_LOOK)
        back = time.perf_counter()
        await starting
        return back


@dataclass(slots=True)
class SecuredDeployment:
    """A broker, a worker and edge nodes that run; made by `secured_deployment`.

    Attributes:
        folder: the broker's.
        port: the broker's.
        processes: ended with the deployment.
        cores: the worker has one, all else the other.
        link: between the devices and all else, if there is one; we are on the devices' side then.
        broker: the one to which the worker connects. It has the devices' core, as the worker computes on the other.
        sites: brokers on the devices' side to which they connect, bridges to that one.
        worker: the one worker.
        edges: edge nodes, one a device.
    """

    folder: Path
    port: int
    processes: Processes
    cores: Cores
    link: NetnsLink | None
    broker: SecuredBroker = field(init=False)
    sites: list[SecuredBroker] = field(default_factory=list, init=False)
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

    async def start_worker(self, *flags: str) -> None:
        """Start the worker and wait until it serves, at first or after its process was killed."""
        metrics = free_port()
        config = str(self.bundle(Role.WORKER, WORKER) / SETTINGS[Role.WORKER])
        own = ("--config", config, "--ready-json", "--metrics-port", str(metrics))
        command = self.on("cloud", python("cloud_worker", *own, *flags))
        process = await self.processes.start(WORKER, command, log=self.folder.with_name(f"{WORKER}.log"))
        self.worker = Daemon(process, metrics, await process.event(lambda event: "ready" in event))

    async def start_edge(self, name: str, *flags: str, side: Side = "device", wait: bool = True) -> Daemon:
        """Start the edge node of a device and wait until it knows a worker.

        Args:
            name: name of the device.
            flags: ones of ``flexspec-edge serve``.
            side: side of the link.
            wait: false to wait only until its API answers.
        """
        config = str(self.bundle(Role.EDGE, name) / SETTINGS[Role.EDGE])
        state = str(self.folder.with_name(f"state-{name}"))
        own = ("--config", config, "--state-dir", state, "--api-port", "0", "--ready-json")
        command = self.on(side, python("edge_node", "serve", *own, *flags))
        process = await self.processes.start(name, command, log=self.folder.with_name(f"{name}.log"))
        ready = await process.event(lambda event: "port" in event)
        self.edges.append(edge := Daemon(process, ready["port"], ready))
        if wait:
            await until_ready(name, edge.url)
        return edge


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
    sites: int = 0,
    link: LinkPlan | None = None,
) -> AsyncIterator[SecuredDeployment]:
    """Make a deployment with TLS and keys, start its daemons, and end them on leaving.

    Args:
        devices: names of those that edge nodes run for.
        worker_flags: flags of ``flexspec-cloud``; None starts no worker.
        edge_flags: flags of every ``flexspec-edge serve``.
        more_devices: names of those that only get what is handed out.
        more_workers: names and versions of workers that only get what is handed out.
        sites: brokers of sites on the devices' side, over which devices are spread: bridges to the central one.
        link: emulated between the devices and all else; the thread that calls is on the devices' side inside. None is
            loopback.

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
        names, ports = (*devices, *more_devices), {f"s{number}": free_port() for number in range(sites)}
        for number, (site, its) in enumerate(ports.items()):
            await operator("add-site", str(folder), site, "--address", f"127.0.0.1:{its}")
            await operator("add-device", str(folder), *names[number::sites], "--site", site)
        if not sites:
            await operator("add-device", str(folder), *names)
        processes = await stack.enter_async_context(Processes())
        made = SecuredDeployment(folder, port, processes, Cores.of_this_process(), between)
        here = partial(pinned, made.cores.device)
        there = here if between is None else lambda command: here(between.inside("b", command))
        made.broker = SecuredBroker(processes, folder, port, there)
        made.sites = [
            SecuredBroker(processes, made.bundle(Role.SITE, site), its, here) for site, its in ports.items()
        ]
        for broker in (made.broker, *made.sites):
            await broker.start()
        if worker_flags is not None:
            await made.start_worker(*worker_flags)
        for name in devices:
            await made.start_edge(name, *edge_flags)
        yield made
