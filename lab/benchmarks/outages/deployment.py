"""A deployment as `flexspec-broker init` makes it, and a broker that is killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment as BrokerFolder
from broker.settings import Role
from flexspec_mq.errors import FlexSpecError
from lab.testbed.site.figures import until_ready
from lab.testbed.site.process import Process, Processes, pinned, python
from lab.testbed.site.topology import Cores, free_port

WORKER = "w1"
DEVICES = ("d1", "d2", "d3")
_BROKER_WITHIN = 30.0


@dataclass(slots=True)
class Deployment:
    """A running deployment on loopback; made by `deployment`.

    Attributes:
        folder: of the broker.
        urls: of the edge nodes' APIs.
        processes: ended with the deployment.
        cores: the worker has one, all else the other.
        broker: its process; Mosquitto is a child of it.
        mosquitto: process id.
    """

    folder: Path
    urls: Sequence[str]
    processes: Processes
    cores: Cores
    broker: Process | None = None
    mosquitto: int = 0

    async def start_broker(self) -> None:
        """Start the broker of the folder and wait until it answers."""
        command = pinned(self.cores.device, python("broker", "run", str(self.folder), "--ready-json"))
        self.broker = await self.processes.start("broker", command)
        self.mosquitto = (await self.broker.event(lambda event: "pid" in event, _BROKER_WITHIN))["pid"]

    async def broker_away(self, seconds: float) -> float:
        """Kill Mosquitto as a crash would, and start it again after so long.

        Returns:
            When it answered again, on the clock of `time.perf_counter`.
        """
        assert self.broker is not None
        os.kill(self.mosquitto, signal.SIGKILL)
        until = time.perf_counter() + seconds
        await self.broker.wait()
        await asyncio.sleep(until - time.perf_counter())
        await self.start_broker()
        return time.perf_counter()


@asynccontextmanager
async def deployment(worker_flags: Sequence[str], edge_flags: Sequence[str]) -> AsyncIterator[Deployment]:
    """Make a deployment with TLS and keys, start its daemons, and end them on leaving.

    Args:
        worker_flags: of ``flexspec-cloud``.
        edge_flags: of ``flexspec-edge serve``.

    Raises:
        FlexSpecError: a command failed, or a daemon did not start; says why.
    """
    cores = Cores.of_this_process()
    with TemporaryDirectory(prefix="flexspec-outages-") as scratch:
        folder = Path(scratch) / "broker"
        where = ("--host", "127.0.0.1", "--name", "localhost", "--port", str(free_port()))
        await _command("init", str(folder), *where, "--tls", "--keys")
        await _command("add-worker", str(folder), WORKER, "--version", "base")
        await _command("add-device", str(folder), *DEVICES)
        async with Processes() as processes:
            urls: list[str] = []
            here = Deployment(folder, urls, processes, cores)
            await here.start_broker()
            config = str(BrokerFolder(folder).bundles.folder(Role.WORKER, WORKER) / SETTINGS[Role.WORKER])
            command = python("cloud_worker", "--config", config, "--ready-json", *worker_flags)
            worker = await processes.start(
                WORKER, pinned(cores.cloud, command), log=Path(scratch) / f"{WORKER}.log"
            )
            await worker.event(lambda event: "ready" in event)
            for name in DEVICES:
                config = str(BrokerFolder(folder).bundles.folder(Role.EDGE, name) / SETTINGS[Role.EDGE])
                flags = ("--config", config, "--api-port", "0", "--ready-json", *edge_flags)
                command = pinned(cores.device, python("edge_node", "serve", *flags))
                edge = await processes.start(name, command, log=Path(scratch) / f"{name}.log")
                port = (await edge.event(lambda event: "port" in event))["port"]
                await until_ready(name, port)
                urls.append(f"http://127.0.0.1:{port}")
            yield here


async def _command(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *python("broker", *arguments), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise FlexSpecError(f"flexspec-broker {arguments[0]} failed", hint=said.decode())
