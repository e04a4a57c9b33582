"""A deployment as its operator makes it: TLS, keys and seals, a worker, honest devices, and one for each attack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.default import default_model_path
from lab.benchmarks.attacks.attacker import Order, Report
from lab.benchmarks.attacks.ways import WAYS
from lab.testbed.site.figures import until_ready
from lab.testbed.site.process import Process, Processes, pinned, python
from lab.testbed.site.topology import Cores, Daemon, free_port
from schemas.messages import MAX_AHEAD

WORKER, VERSION = "w1", "base"
HONEST = ("honest-1", "honest-2", "honest-3")
_STREAMING = (
    *("--policy", "fixed", "--draft-length", "0", "--draft", "none", "--no-lookup"),
    *("--ahead", str(MAX_AHEAD), "--worker-draft", "4"),
)
"""The worker drafts, as it does by default where it has time; what costs others their drafts shows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Made by `place`.

    Attributes:
        folder: of the deployment.
        port: of the broker.
        pids: processes whose time counts, by name.
        worker: the one worker.
        honest: edge nodes.
    """

    folder: Path
    port: int
    pids: dict[str, int]
    worker: Daemon
    honest: Sequence[Daemon]
    processes: Processes
    cores: Cores

    async def attacker(self, way: str, rate: float, messages: float) -> Process:
        """Start an attack; it has begun."""
        order = Order(
            way=way,
            port=self.port,
            folder=str(_handed(self.folder, _role(way), _name(way))),
            worker=WORKER,
            version=VERSION,
            victim=HONEST[0],
            rate=rate,
            messages=messages,
        )
        command = python("lab.benchmarks.attacks.attacker", msgspec.json.encode(order).decode())
        made = await self.processes.start(_name(way), pinned(self.cores.device, command))
        await made.line(30.0)
        return made

    async def end(self, attacker: Process) -> Report:
        """End an attack, and hear what came of it."""
        await attacker.send(b"")
        return msgspec.json.decode(await attacker.line(60.0), type=Report)


@asynccontextmanager
async def place(ways: Sequence[str], worker_flags: Sequence[str] = ()) -> AsyncIterator[Place]:
    """Start all that is honest. The worker has a core; broker, devices and whoever attacks share the other one.

    Args:
        ways: attacks that devices are made for.
        worker_flags: of ``flexspec-cloud``.
    """
    cores = Cores.of_this_process()
    with TemporaryDirectory(prefix="flexspec-attacks-") as scratch:
        folder, port = Path(scratch) / "broker", free_port()
        # What is the default where other machines can reach the broker.
        await _broker("init", str(folder), "--host", "127.0.0.1", "--port", str(port), "--tls", "--keys")
        await _broker("add-worker", str(folder), WORKER, "--version", VERSION)
        await _broker(
            "add-device", str(folder), *HONEST, *(_name(way) for way in ways if not WAYS[way].worker)
        )
        for way in ways:
            if version := WAYS[way].worker:
                await _broker("add-worker", str(folder), _name(way), "--version", version)
        async with Processes() as processes:
            command = python("broker", "run", str(folder), "--ready-json")
            broker = await processes.start(
                "broker", pinned(cores.device, command), log=Path(scratch) / "broker.log"
            )
            mosquitto = (await broker.event(lambda event: "pid" in event, 30.0))["pid"]
            metrics = free_port()
            flags = ("--metrics-port", str(metrics), "--ready-json", "--status-every", "1", *worker_flags)
            config = str(_handed(folder, Role.WORKER, WORKER) / SETTINGS[Role.WORKER])
            process = await processes.start(
                WORKER,
                pinned(cores.cloud, python("cloud_worker", "--config", config, *flags)),
                log=Path(scratch) / "worker.log",
            )
            worker = Daemon(process, metrics, await process.event(lambda event: "ready" in event))
            tokenizer = str(default_model_path(lambda _line: None))
            honest = []
            for name in HONEST:
                config = str(_handed(folder, Role.EDGE, name) / SETTINGS[Role.EDGE])
                flags = ("--api-port", "0", "--ready-json", "--tokenizer", tokenizer, *_STREAMING)
                command = python("edge_node", "serve", "--config", config, *flags)
                process = await processes.start(
                    name, pinned(cores.device, command), log=Path(scratch) / f"{name}.log"
                )
                ready = await process.event(lambda event: "port" in event)
                await until_ready(name, ready["port"])
                honest.append(Daemon(process, ready["port"], ready))
            pids = {"mosquitto": mosquitto, "broker": broker.pid, "worker": worker.process.pid}
            yield Place(folder, port, pids, worker, honest, processes, cores)


async def _broker(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *python("broker", *arguments), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise FlexSpecError(f"flexspec-broker {arguments[0]} failed", hint=said.decode())


def _handed(folder: Path, role: Role, name: str) -> Path:
    return Deployment(folder).bundles.folder(role, name)


def _name(way: str) -> str:
    return f"evil-{way}"


def _role(way: str) -> Role:
    return Role.EDGE if WAYS[way].worker is None else Role.WORKER
