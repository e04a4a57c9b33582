"""A deployment by `flexspec-broker init`, its daemons behind links of their own, and all that may happen to them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq.demo.children import python
from flexspec_mq.demo.proxy import WAYS as BOTH
from flexspec_mq.demo.proxy import Way
from flexspec_mq.demo.recording import until_ready
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.attacks.attacker import AttackOrder
from lab.benchmarks.attacks.ways import WAYS
from lab.chaos.history import Healed, HistoryFile, Left, Struck
from lab.chaos.schedule import EXTRA, WORKERS, Fault, Sizes
from lab.testbed.deployment import free_port
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.testbed.link.proxy import ProxyLink, proxy_link
from lab.testbed.metrics import figures, live_sessions
from lab.testbed.process import Process, output
from lab.testbed.secured import VERSION, operator

LEASE = 15.0
"""Seconds after which a worker gives the place of a device up that says nothing."""
_DAY = 86_400.0
_STORM = 0.05
_DISK = "24m"
_AGAIN = 1.0
"""Seconds until a daemon that ended by itself is started again, as systemd would."""
_TRIES = 5
_FINAL = (2, 3, 4)
"""Exit codes with which the units of deploy/systemd start nothing again."""
_FORGETS = 60.0
"""Seconds beside the lease within which all is given back."""
_RSS, _MEMORY = "process_resident_memory_bytes", 400e6
"""Bytes that a daemon may take beyond those at its beginning: a worker's KV cache is half of it."""
_RATE, _MESSAGES = 300e3, 600.0
"""Bytes and messages a second of an attacker."""


@dataclass(slots=True)
class Daemon:
    """A daemon that is started again whenever it ends.

    Attributes:
        name: on topics.
        command: makes the command of an incarnation, by its number.
        port: port of its figures; 0 is none.
        link: between it and the broker.
        control: file that `lab.chaos.traced` obeys; None where it is not traced.
        down: true while it is meant to be.
        ready: line that the newest incarnation said when it was ready.
        idle: figures when it had just begun.
        ended: exit codes and last words of incarnations that ended by themselves.
        lock: held while it is taken down and comes up again.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    log: Path
    port: int = 0
    link: ProxyLink | None = None
    control: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    down: bool = True
    restarts: int = 0
    ready: dict[str, object] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _process: Process | None = None

    @property
    def process(self) -> Process:
        """Newest one."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start it and wait until it serves; again where it ends by itself, unless a unit would not either.

        Raises:
            FlexSpecError: it does not come up.
        """
        for tried in range(_TRIES):
            self.restarts += 1
            self.order(0.0, 0.0)
            self._process = await Process.start(
                self.name, self.command(self.restarts), log=self.log, env=self.env
            )
            try:
                self.ready = await self.process.event(lambda event: "ready" in event or "pid" in event)
            except FlexSpecError:
                final = self.control is not None and self.process.exit_code in _FINAL
                if final or tried == _TRIES - 1:
                    raise
                await asyncio.sleep(_AGAIN)
            else:
                self.down = False
                return

    async def kill(self) -> None:
        """End it as a crash or a power cut would; a broker with its Mosquitto."""
        self.down = True
        if "pid" in self.ready:
            self._signal_mosquitto(signal.SIGKILL)
        await self.process.kill()

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Have it hang."""
        self._signal_mosquitto(signal.SIGSTOP)
        self.process.pause()
        try:
            yield
        finally:
            self.process.resume()
            self._signal_mosquitto(signal.SIGCONT)

    def order(self, clock: float, rate: float) -> None:
        """Set its clock, and the weather on its link."""
        if self.control is None:
            return
        orders = self.control.with_suffix(".new")
        orders.write_text(json.dumps({"clock": clock, "rate": rate}), "utf-8")
        orders.replace(self.control)
        if not self.down:
            self.process.send_signal(signal.SIGUSR1)

    def _signal_mosquitto(self, number: signal.Signals) -> None:
        if isinstance(pid := self.ready.get("pid"), int):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(slots=True)
class Site:
    """A deployment that runs; made by `site`.

    Attributes:
        scratch: folder of this run, where nothing is ever full.
        disk: where broker and daemons keep what they keep: a small disk of its own, where one could be made.
        full: whether it is one.
        history: file of faults.
    """

    scratch: Path
    disk: Path
    full: bool
    history: HistoryFile
    port: int
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @property
    def deployment(self) -> Deployment:
        """The broker's folder."""
        return Deployment(self.disk / "broker")

    @property
    def edges(self) -> list[Daemon]:
        """Edge nodes."""
        return [daemon for name, daemon in self.daemons.items() if name.startswith("e")]

    async def inflict(self, fault: Fault) -> None:
        """Let a fault happen, and mend it."""
        self.history.add(Struck(time.monotonic(), fault.number, fault.kind, fault.target))
        skipped = ""
        try:
            await self._inflict(fault)
        except NotHereError as error:
            skipped = str(error)
        self.history.add(Healed(time.monotonic(), fault.number, skipped))

    async def _inflict(self, fault: Fault) -> None:
        if fault.kind == "attack":
            await self._attack(fault)
        elif fault.kind == "full":
            await self._fill(fault.seconds)
        else:
            await self._break(self.daemons[fault.target], fault)

    async def _break(self, daemon: Daemon, fault: Fault) -> None:
        kind, seconds = fault.kind, fault.seconds
        if kind == "kill":
            async with daemon.lock:
                await daemon.kill()
                await asyncio.sleep(seconds)
                await daemon.start()
        elif kind == "join":
            await daemon.start()
            await asyncio.sleep(seconds)
            daemon.down = True
            await daemon.process.end(patience=45.0)
        elif kind == "stop":
            async with daemon.stopped():
                await asyncio.sleep(seconds)
        elif kind in {"clock", "storm"}:
            later = _DAY if fault.number % 2 else -_DAY
            daemon.order(*((later, 0.0) if kind == "clock" else (0.0, _STORM)))
            await asyncio.sleep(seconds)
            daemon.order(0.0, 0.0)
        else:
            assert daemon.link is not None
            ways: dict[str, Sequence[Way]] = {
                "up": ("up",),
                "down": ("down",),
                "blackhole": BOTH,
                "away": BOTH,
            }
            if kind == "cut":
                daemon.link.cut()
            else:
                daemon.link.stall(seconds, ways[kind])
                await asyncio.sleep(seconds)

    async def _fill(self, seconds: float) -> None:
        if not self.full:
            raise NotHereError("no disk of its own could be made here: mount needs root")
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                continue
        await asyncio.sleep(seconds)
        filler.unlink()

    async def _attack(self, fault: Fault) -> None:
        role = Role.EDGE if WAYS[fault.target].worker is None else Role.WORKER
        order = AttackOrder(
            way=fault.target,
            port=self.port,
            folder=str(self.deployment.bundles.folder(role, evil(fault.target))),
            worker=WORKERS[0],
            version=VERSION,
            victim=self.edges[0].name,
            rate=_RATE,
            messages=_MESSAGES,
        )
        command = python("lab.benchmarks.attacks.attacker", msgspec.json.encode(order).decode())
        attacker = await Process.start(fault.target, command, log=self.scratch / f"{fault.target}.log")
        await asyncio.sleep(fault.seconds)
        await attacker.kill()

    async def watch(self) -> None:
        """Note daemons that end by themselves, and start them again; for ever."""
        while True:
            await asyncio.sleep(_AGAIN / 2)
            for daemon in self.daemons.values():
                if daemon.down or daemon.process.runs:
                    continue
                async with daemon.lock:
                    daemon.down = True
                    daemon.ended.append(f"{daemon.process.exit_code}: {daemon.process.said[-1500:]}")
                    await daemon.start()

    async def given_back(self) -> None:
        """Wait until nothing of any session is left, or long enough, and note what is."""
        ends = time.monotonic() + LEASE + _FORGETS
        while (left := await self._left()) and time.monotonic() < ends:  # noqa: ASYNC110  other processes know
            await asyncio.sleep(0.5)
        for record in left or [Left(time.monotonic(), "all", "violations", 0.0, 0.0)]:
            self.history.add(record)

    async def _left(self) -> list[Left]:
        now, left = time.monotonic(), []
        for daemon in self.daemons.values():
            if daemon.ended:
                left.append(
                    Left(now, daemon.name, f"ended by itself, {daemon.ended[0]}", len(daemon.ended), 0.0)
                )
            if not daemon.port or daemon.down:
                continue
            try:
                found = await figures(daemon.port)
            except (OSError, TimeoutError) as error:
                left.append(Left(now, daemon.name, f"does not answer, {error!r}", 1.0, 0.0))
                continue
            kind = "edge" if daemon.name.startswith("e") else "worker"
            found["texts"] = live_sessions(found, kind)
            for name, most in self._bounds(kind, daemon).items():
                if (value := found.get(name, 0.0)) > most:
                    left.append(Left(now, daemon.name, name, value, most))
        return left

    def _bounds(self, kind: str, daemon: Daemon) -> dict[str, float]:
        return {
            "texts": 0.0,
            f"flexspec_{kind}:protocol_violations_total": 0.0,
            f"flexspec_{kind}:tasks": daemon.idle.get(f"flexspec_{kind}:tasks", 0.0) + 3,
            "process_open_fds": daemon.idle.get("process_open_fds", 0.0) + 12,
            _RSS: daemon.idle.get(_RSS, 0.0) + _MEMORY,
        }  # fmt: skip


class NotHereError(Exception):
    """A fault that cannot be made on this machine."""


def evil(way: str) -> str:
    """Name of the attacker that goes a way."""
    return f"evil-{way}"


@asynccontextmanager
async def site(
    scratch: Path, sizes: Sizes, worker: Sequence[str], edge: Sequence[str], seed: int
) -> AsyncIterator[Site]:
    """Make a deployment, start two workers and the edge nodes, and end all of them on leaving.

    Args:
        scratch: an empty folder.
        sizes: names of devices, of which the first plans as it does by default and the others at random, the last
            of several without llguidance; and of attacks, for each of which somebody is handed out what a device or
            worker has.
        worker: flags of ``flexspec-cloud``.
        edge: flags of ``flexspec-edge serve``.
        seed: seed of random plans.

    Raises:
        FlexSpecError: a command failed, or a daemon did not start; says why.
    """
    disk = scratch / "disk"
    disk.mkdir()
    async with AsyncExitStack() as stack:
        full = False
        with contextlib.suppress(FlexSpecError):  # mount needs root
            await output("mount", ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(disk)])
            full = True
            stack.callback(subprocess.check_call, ["umount", "--lazy", str(disk)])
        made = Site(scratch, disk, full, HistoryFile(scratch / "faults.jsonl"), free_port())
        folder = str(disk / "broker")
        await operator("init", folder, "--host", "127.0.0.1", "--port", str(made.port), "--tls", "--keys")
        await operator("add-worker", folder, *WORKERS, EXTRA, "--version", VERSION)
        of_devices = [evil(way) for way in sizes.ways if WAYS[way].worker is None]
        await operator("add-device", folder, *sizes.edges, *of_devices)
        for way in sizes.ways:
            if (version := WAYS[way].worker) is not None:
                await operator("add-worker", folder, evil(way), "--version", version)
        made.daemons["broker"] = Daemon(
            "broker", lambda _: python("broker", "run", folder, "--ready-json"), disk / "broker.log"
        )
        stack.push_async_callback(_end, made)
        await made.daemons["broker"].start()
        plan = LinkPlan("wifi", built_in().get("wifi"), seed)
        for number, name in enumerate((*WORKERS, EXTRA, *sizes.edges)):
            link = await stack.enter_async_context(proxy_link(plan, ("127.0.0.1", made.port)))
            flags = edge if name in sizes.edges else worker
            plans = seed + number + 1 if name in sizes.edges[1:] else 0
            made.daemons[name] = _traced(made, name, link, flags, plans, sizes)
        first = [made.daemons[name] for name in (*WORKERS, *sizes.edges)]
        await asyncio.gather(*(daemon.start() for daemon in first))
        for daemon in first:
            await until_ready(daemon.name, f"http://127.0.0.1:{daemon.port}")
            daemon.idle = await figures(daemon.port)
        yield made


def _traced(made: Site, name: str, link: ProxyLink, flags: Sequence[str], plans: int, sizes: Sizes) -> Daemon:
    edge, blind = name in sizes.edges, name in sizes.edges[1:][-1:]
    role, kind = (Role.EDGE, "edge") if edge else (Role.WORKER, "cloud")
    config = made.deployment.bundles.folder(role, name) / SETTINGS[role]
    control, port = made.scratch / f"{name}.control", free_port()
    at = ("--config", str(config), "--broker", f"127.0.0.1:{link.port}", "--ready-json", "--verbose")
    own = ("serve", *at, "--api-port", str(port)) if edge else (*at, "--metrics-port", str(port))

    def command(restarts: int) -> list[str]:
        trace = made.scratch / f"{name}-{restarts}.jsonl"
        traced = ("lab.chaos.traced", kind, str(trace), str(control), str(plans), *own, *flags)
        return python("lab.without", "llguidance", *traced) if blind else python(*traced)

    env = {"FLEXSPEC_EDGE_REMEMBER": "true", "FLEXSPEC_EDGE_STATE_DIR": str(made.disk / name)} if edge else {}
    env |= {"OMP_NUM_THREADS": "1"}
    return Daemon(name, command, made.disk / f"{name}.log", port, link, control, env)


async def _end(made: Site) -> None:
    for daemon in reversed(list(made.daemons.values())):
        daemon.down = True
        if daemon.restarts:
            daemon.process.resume()
            await daemon.process.kill()
            shutil.copy(daemon.log, made.scratch)  # the disk goes with the run
