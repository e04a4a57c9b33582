"""A deployment as `flexspec-broker init` makes it for others, with TLS and keys, on this machine's loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq.errors import FlexSpecError
from lab.testbed.deployment import Cores, Daemon, free_port
from lab.testbed.metrics import until_ready
from lab.testbed.process import Processes, pinned, python

WORKER, VERSION = "w1", "base"
_BROKER_WITHIN = 30.0


@dataclass(slots=True)
class SecuredDeployment:
    """A broker, a worker and edge nodes that run; made by `secured_deployment`.

    Attributes:
        folder: the broker's.
        port: the broker's.
        processes: ended with the deployment.
        cores: the worker has one, all else the other.
        worker: the one worker.
        edges: edge nodes, one a device.
    """

    folder: Path
    port: int
    processes: Processes
    cores: Cores
    worker: Daemon
    edges: list[Daemon] = field(default_factory=list)

    def bundle(self, role: Role, name: str) -> Path:
        """Folder that the operator hands out to a worker or a device."""
        return Deployment(self.folder).bundles.folder(role, name)


@asynccontextmanager
async def secured_deployment(
    devices: Sequence[str],
    *,
    worker_flags: Sequence[str] = (),
    edge_flags: Sequence[str] = (),
    more_devices: Sequence[str] = (),
    more_workers: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[SecuredDeployment]:
    """Make a deployment with TLS and keys, start its daemons, and end them on leaving.

    Args:
        devices: names of those that edge nodes run for.
        worker_flags: flags of ``flexspec-cloud``.
        edge_flags: flags of every ``flexspec-edge serve``.
        more_devices: names of those that only get what is handed out.
        more_workers: names and versions of workers that only get what is handed out.

    Raises:
        FlexSpecError: a command failed, or a daemon did not start; says why.
    """
    cores = Cores.of_this_process()
    with TemporaryDirectory(prefix="flexspec-secured-") as scratch:
        folder, port = Path(scratch) / "broker", free_port()
        await _command("init", str(folder), "--host", "127.0.0.1", "--port", str(port), "--tls", "--keys")
        for name, version in ((WORKER, VERSION), *more_workers):
            await _command("add-worker", str(folder), name, "--version", version)
        await _command("add-device", str(folder), *devices, *more_devices)
        bundles = Deployment(folder).bundles
        async with Processes() as processes:
            command = pinned(cores.device, python("broker", "run", str(folder), "--ready-json"))
            broker = await processes.start("broker", command, log=folder.with_suffix(".log"))
            await broker.event(lambda event: "pid" in event, _BROKER_WITHIN)
            metrics = free_port()
            config = str(bundles.folder(Role.WORKER, WORKER) / SETTINGS[Role.WORKER])
            flags = ("--config", config, "--ready-json", "--metrics-port", str(metrics), *worker_flags)
            command = pinned(cores.cloud, python("cloud_worker", *flags))
            process = await processes.start(WORKER, command, log=Path(scratch) / f"{WORKER}.log")
            worker = Daemon(process, metrics, await process.event(lambda event: "ready" in event))
            made = SecuredDeployment(folder, port, processes, cores, worker)
            for name in devices:
                config = str(bundles.folder(Role.EDGE, name) / SETTINGS[Role.EDGE])
                flags = ("--config", config, "--api-port", "0", "--ready-json", *edge_flags)
                command = pinned(cores.device, python("edge_node", "serve", *flags))
                process = await processes.start(name, command, log=Path(scratch) / f"{name}.log")
                ready = await process.event(lambda event: "port" in event)
                await until_ready(name, ready["port"])
                made.edges.append(Daemon(process, ready["port"], ready))
            yield made


async def _command(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *python("broker", *arguments), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise FlexSpecError(f"flexspec-broker {arguments[0]} failed", hint=said.decode())
