"""Machines, and the real daemons on them: workers, and devices with their outboxes, which start, end and lose power."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cloud_worker.settings import WorkerSettings
from cloud_worker.worker import CloudWorker
from edge_node.node import EdgeNode
from edge_node.outbox.clock import Clock
from edge_node.outbox.entries import Entry, OutboxError
from edge_node.outbox.journal import Bounds, Journal
from edge_node.outbox.outbox import Outbox
from edge_node.settings import EdgeSettings
from edge_node.text.generator import CompletionGenerator
from edge_node.text.texts import TextBounds, Texts
from flexspec_mq import entropy, waiting
from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.tasks import running
from flexspec_mq.transport.base import LinkSettings
from lab.sim.disk import Recording, some
from lab.sim.history import History
from lab.sim.loop import EPOCH, MACHINE
from lab.sim.model import TEXT, SimDrafter, SimEngine
from lab.sim.network import Conditions, SimBroker, SimLink
from lab.simulator.world import EOS, FINGERPRINT, FakeTarget

VERSION = "base"
RETENTION = 3600.0
"""Seconds for which an answer is promised to stay."""
AGE = 600.0
"""Seconds that a request waits until its user is asked."""


class _Silent:
    """Whoever counts."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


@dataclass(eq=False)
class SimMachine:
    """A machine with clocks, a network and threads that take their time.

    Attributes:
        name: name of the machine.
        conditions: state of its network.
        drift: seconds that its clock gains in one.
        set_by: seconds by which its clock was set.
        slow: factor of what its threads take.
        boots: how often it was started.
    """

    name: str
    rng: random.Random
    conditions: Conditions = field(default_factory=Conditions)
    drift: float = 0.0
    set_by: float = 0.0
    slow: float = 1.0
    boots: int = 0
    _booted_at: float = 0.0

    def wall(self) -> float:
        """Seconds since the Unix epoch, as far as it knows."""
        return EPOCH + self.set_by + entropy.now() * (1.0 + self.drift)

    def up(self) -> float:
        """Seconds since it was started."""
        return 5.0 + entropy.now() - self._booted_at

    def boot(self) -> None:
        """Start it."""
        self.boots += 1
        self._booted_at = entropy.now()

    def busy(self, what: str) -> float:
        """Seconds that a call takes on a thread of this name."""
        takes = {"engine": (0.01, 0.04), "outbox": (0.0005, 0.01)}.get(what, (0.0, 0.0))
        return self.slow * self.rng.uniform(*takes)


class SimNode:
    """A daemon on a machine of its own.

    Attributes:
        machine: the machine that it runs on.
        up: set while it runs.
        life: counts its starts; what an earlier one said after its power went is nobody's.
    """

    def __init__(self, name: str, broker: SimBroker, history: History, rng: random.Random) -> None:
        self.name = name
        self.machine = SimMachine(name, rng)
        self.broker = broker
        self.history = history
        self.rng = rng
        self.up = asyncio.Event()
        self.life = 0
        self.links: list[SimLink] = []
        self._daemon: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def client_id(self) -> str:
        """At the broker."""
        return f"c-{self.name}"

    def link_settings(self) -> LinkSettings:
        """How it connects."""
        return LinkSettings(client_id=self.client_id)

    def task(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something on its machine, until its end."""
        context = copy_context()
        context.run(MACHINE.set, self.machine)
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}: {name}", context=context)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._daemon is not None:
            return
        self.life += 1
        self.machine.boot()
        self.history.note(self.name, f"starts (life {self.life})")
        self._daemon = self.task(self.live(self.life), "daemon")

    async def live(self, life: int) -> None:
        """Run the daemon until it is told to end."""
        raise NotImplementedError

    def kill(self) -> None:
        """Take its power away."""
        if self._daemon is None:
            return
        self.history.note(self.name, "loses power")
        self.up.clear()
        self.life += 1  # what its tasks still say is nobody's
        for link in self.links:
            link.die()
        self.links.clear()
        self.lose_power()
        self._daemon = None
        for task in list(self._calls):
            task.cancel()
        self._calls.clear()
        for connection in self.broker.silent(self.machine.conditions):
            # The broker learns of it when its keep-alive ends, if the machine is not back before.
            asyncio.get_running_loop().call_later(1.5 * waiting.KEEPALIVE, connection.broker_drops)

    def lose_power(self) -> None:
        """Drop everything else that goes with the power."""

    async def stop(self) -> None:
        """End it in order."""
        if self._daemon is None:
            return
        self.history.note(self.name, "is told to end")
        daemon, life = self._daemon, self.life
        self.up.clear()
        await self.leave()
        await asyncio.wait([daemon])
        if self._daemon is daemon and self.life == life:
            self._daemon = None
            self.links.clear()
            self.history.note(self.name, "has ended")

    async def leave(self) -> None:
        """Tell the daemon to end."""

    def broke(self, life: int, error: BaseException) -> None:
        """Its daemon died by itself."""
        if life == self.life:
            self.history.broken(f"{self.name} died: {error!r}")


class SimWorker(SimNode):
    """A worker."""

    def __init__(
        self, name: str, broker: SimBroker, history: History, rng: random.Random, target: FakeTarget
    ) -> None:
        super().__init__(name, broker, history, rng)
        self._target = target
        self.worker: CloudWorker | None = None
        self.engine = SimEngine(target)

    async def live(self, life: int) -> None:
        """Run the daemon until it is told to end."""
        self.engine = SimEngine(self._target)
        self.worker = CloudWorker(
            WorkerSettings(worker=self.name, version=VERSION, target="simulated", capacity=16, drain=2.0),
            cast("Any", self.engine),
        )
        self.up.set()
        try:
            await self.worker.run(
                self.broker.links(self.machine.conditions, self.links), self.link_settings()
            )
        except Exception as error:  # noqa: BLE001  a broken rule
            self.broke(life, error)

    async def leave(self) -> None:
        """Drain."""
        if self.worker is not None:
            self.worker.stop()

    @property
    def sessions(self) -> int:
        """Sessions that it holds."""
        return 0 if self.worker is None or not self.up.is_set() else len(self.worker.machine.sessions)


class SimDevice(SimNode):
    """A device.

    Attributes:
        texts: the texts of the device, while it runs.
    """

    def __init__(
        self,
        name: str,
        broker: SimBroker,
        history: History,
        rng: random.Random,
        target: FakeTarget,
        recording: Recording,
        disk: Path,
    ) -> None:
        super().__init__(name, broker, history, rng)
        self._target = target
        self._recording = recording
        self._disk = disk / name
        self._folder = self._disk / "0"
        self._folder.mkdir(parents=True)
        self._before: dict[str, bytes] = {}
        self.texts: Texts | None = None
        self.node: EdgeNode | None = None
        self.drafter = SimDrafter(target, 0.7)
        self._ends = asyncio.Event()

    @property
    def path(self) -> Path:
        """Its outbox."""
        return self._folder / "outbox"

    def fill(self, *, full: bool) -> None:
        """Fill its disk, or make room."""
        folders = self._recording.full_folders
        (folders.add if full else folders.discard)(str(self._folder))

    async def live(self, life: int) -> None:
        """Run the daemon until it is told to end."""
        self._ends = asyncio.Event()
        ends = self._ends
        self.drafter = SimDrafter(self._target, 0.7)
        machine = self.machine
        clock = Clock(machine.wall, machine.up, f"boot {machine.boots}")
        try:
            journal = Journal(self.path, Bounds(texts=64, retention=RETENTION), clock)
            outbox = Outbox(journal)
            self._looked_at(journal.entries())
            node = EdgeNode(EdgeSettings(edge=self.name, version=VERSION), self.drafter, FINGERPRINT, (EOS,))
            policy = lambda: ClosedFormPolicy(Plan(4, 2, 1, 8))  # noqa: E731
            generator = CompletionGenerator(node, TEXT, policy, 40, round(RETENTION))
            limits = TextBounds(outbox_age=AGE, outbox_for=RETENTION, grace=1.0)
            texts = Texts(generator, limits, cast("Any", _Silent()), outbox)
            connect = self.broker.links(machine.conditions, self.links)
            async with node.running(connect, self.link_settings()), running(texts.run(), "outbox"):
                self.texts, self.node = texts, node
                self.up.set()
                broken, ended = self.task(node.wait_broken(), "broken"), self.task(ends.wait(), "end")
                await asyncio.wait([broken, ended], return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    broken.result()
                broken.cancel()
                await texts.close()
        except OutboxError as error:
            if life == self.life:
                self.history.note(self.name, f"cannot use its disk: {error}")
                self._daemon = None
                self.task(self._again(), "restart")
        except Exception as error:  # noqa: BLE001  a broken rule
            self.broke(life, error)

    async def _again(self) -> None:
        await asyncio.sleep(waiting.STATUS / 2)
        self.start()

    async def leave(self) -> None:
        """End in order."""
        self._ends.set()

    def lose_power(self) -> None:
        """The disk has what was synced, and of the rest what it likes."""
        before, recording = self._folder, self._recording
        full = str(before) in recording.full_folders
        self._folder = self._disk / str(self.life)
        self._folder.mkdir()
        recording.rebuild(len(recording.steps), self._folder, some(self.rng), self._before, before)
        recording.forget(before)
        self._before = {each.name: each.read_bytes() for each in self._folder.iterdir()}
        self.texts = self.node = None
        if full:
            recording.full_folders.discard(str(before))
            self.fill(full=True)

    @property
    def full(self) -> bool:
        """Whether its disk is full."""
        return str(self._folder) in self._recording.full_folders

    async def stop(self) -> None:
        """End it in order; what it wrote is on the disk."""
        await super().stop()
        if self._daemon is None and not self.up.is_set():
            self._recording.forget(self._folder)
            self._before = {
                each.name: each.read_bytes() for each in sorted(self._folder.iterdir()) if each.is_file()
            }
            self.texts = self.node = None

    def _looked_at(self, entries: list[Entry]) -> None:
        """See after a start that nothing was lost which was promised."""
        self.history.found(self.name, {entry.key: entry for entry in entries})

    @property
    def sessions(self) -> int:
        """Texts that it writes."""
        return 0 if self.node is None else self.node.sessions

    async def call(self, work: Callable[[Texts], Coroutine[Any, Any, bool]]) -> bool:
        """Have something done with its texts; whether that came to an end before its power went.

        Errors of the product pass through.
        """
        await self.up.wait()
        assert self.texts is not None
        task = self.task(work(self.texts), "user")
        await asyncio.wait([task])
        if task.cancelled():
            return False
        return bool(task.result())
