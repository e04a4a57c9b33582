"""A history: a broker, workers and devices live through a schedule, and rules watch them."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flexspec_mq import entropy, waiting
from lab.sim import loop, rules
from lab.sim.disk import Recording
from lab.sim.history import History
from lab.sim.loop import MACHINE, Stuck
from lab.sim.network import Conditions, SimBroker
from lab.sim.nodes import SimDevice, SimNode, SimWorker
from lab.sim.schedule import DEVICES, WORKERS, Ask, Fault, Schedule
from lab.sim.users import User
from lab.simulator.world import FakeTarget

_CALM = Conditions()


class World:
    """A broker, workers and devices.

    Args:
        seed: seed of chance.
        recording: record of all that is written to disks.
        disk: folder of all disks.
    """

    def __init__(self, seed: int, recording: Recording, disk: Path) -> None:
        rng = random.Random(f"world {seed}")
        self.history = History()
        self.target = FakeTarget(eos_every=40)
        self.broker = SimBroker(rng)
        self.workers = {
            name: SimWorker(name, self.broker, self.history, rng, self.target) for name in WORKERS
        }
        self.devices = {
            name: SimDevice(name, self.broker, self.history, rng, self.target, recording, disk)
            for name in DEVICES
        }
        self.nodes: dict[str, SimNode] = {**self.workers, **self.devices}
        self._until: dict[tuple[str, str], float] = {}  # faults that last, by whom they hit and what ends

    async def live(self, schedule: Schedule) -> History:
        """Live through a schedule, then without faults until all is over."""
        for node in self.nodes.values():
            node.start()
        await asyncio.sleep(1.0)
        began, users = entropy.now(), list[User]()
        for step in schedule.steps:
            await asyncio.sleep(max(0.0, began + step.at - entropy.now()))
            if isinstance(step, Ask):
                users.append(User(self.target, self.devices[step.device], step, self.history))
            else:
                self._strike(step)
        await asyncio.sleep(max([0.0, *(until - entropy.now() for until in self._until.values())]) + 1.0)
        self._heal()
        await rules.settled(self, users)
        for node in self.nodes.values():
            await node.stop()
        return self.history

    def _strike(self, fault: Fault) -> None:
        history, who, kind = self.history, fault.who, fault.kind
        history.counts[f"fault: {kind}"] += 1
        history.note(who, str(fault).partition(f" {who} ")[2])
        if kind.startswith("broker"):
            self.broker.stop(forget=kind == "broker forgets")
            self._last("broker", "down", fault.seconds, self.broker.start)
        elif kind in ("stall", "stall up", "stall down", "slow", "lossy", "reset"):
            self._strike_network(self.nodes[who], kind, fault.seconds)
        else:
            self._strike_machine(self.nodes[who], kind, fault)

    def _strike_network(self, node: SimNode, kind: str, seconds: float) -> None:
        who, conditions = node.name, node.machine.conditions
        if kind == "reset":
            self.broker.reset(node.client_id)
        elif kind == "slow":
            conditions.latency = (0.2, 2.0)
            self._last(who, kind, seconds, lambda: setattr(conditions, "latency", _CALM.latency))
        elif kind == "lossy":
            conditions.loss = conditions.overtaking = 0.2
            self._last(who, kind, seconds, lambda: self._clear(conditions))
        else:
            for way in ("up", "down"):
                if kind in ("stall", f"stall {way}"):
                    conditions.stalled[way] = True
            self._last(who, "stalled", seconds, lambda: self._unstall(conditions))
            for connection in self.broker.silent(conditions):
                patience = waiting.KEEPALIVE * self.broker.rng.uniform(1, 2)
                asyncio.get_running_loop().call_later(patience, self._silent, connection, conditions)

    def _strike_machine(self, node: SimNode, kind: str, fault: Fault) -> None:
        who, machine = node.name, node.machine
        if kind == "power":
            node.kill()
            self._last(who, "off", fault.seconds, node.start)
        elif kind == "restart":
            task = asyncio.create_task(node.stop(), name=f"stop {who}")
            self._last(who, "off", fault.seconds, lambda: task.add_done_callback(lambda _: node.start()))
        elif kind == "clock":
            machine.set_by += fault.value
        elif kind == "drift":
            machine.drift = fault.value
        elif kind == "full" and isinstance(node, SimDevice):
            node.fill(full=True)
            self._last(who, "full", fault.seconds, lambda: node.fill(full=False))
        elif kind == "slow disk":
            machine.slow = 20.0
            self._last(who, "slow disk", fault.seconds, lambda: setattr(machine, "slow", 1.0))
        elif kind == "engine" and isinstance(node, SimWorker):
            node.engine.fails = int(fault.value)

    def _last(self, who: str, what: str, seconds: float, ends: Callable[[], object]) -> None:
        """Have a fault end in so many seconds, unless another of its kind lasts for longer."""
        until = self._until[who, what] = max(self._until.get((who, what), 0.0), entropy.now() + seconds)

        def over() -> None:
            if self._until[who, what] <= until:
                ends()

        asyncio.get_running_loop().call_at(until, over)

    def _silent(self, connection: object, conditions: Conditions) -> None:
        for each in self.broker.silent(conditions):
            if each is connection and any(conditions.stalled.values()):
                each.client_drops("silence")
                each.broker_drops()

    def _unstall(self, conditions: Conditions) -> None:
        conditions.stalled.update(up=False, down=False)
        self.broker.go_on(conditions)

    def _clear(self, conditions: Conditions) -> None:
        conditions.loss = conditions.overtaking = 0.0

    def _heal(self) -> None:
        """End what has no end of its own."""
        self.history.note("world", "no more faults")
        for node in self.nodes.values():
            node.machine.drift = 0.0
        for worker in self.workers.values():
            worker.engine.fails = 0


class _Tracebacks(logging.Handler):
    """Notes errors that were logged with a traceback by a machine that has power."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        error = record.exc_info[1] if record.exc_info else None
        machine = MACHINE.get()
        node = self._world.nodes.get(getattr(machine, "name", ""))
        if error is None or node is None or not node.up.is_set() or "out of memory" in str(error):
            return
        where = traceback.extract_tb(error.__traceback__)[-1]
        self._world.history.broken(
            f"{node.name} logged {error!r} ({where.filename.rpartition('/')[2]}:{where.lineno}): "
            f"{record.getMessage()}"
        )


@contextmanager
def _logged(world: World) -> Iterator[None]:
    root, handler, before = logging.getLogger(), _Tracebacks(world), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)


def lived(schedule: Schedule, recording: Recording, disk: Path) -> History:
    """The history of a schedule; the disk's folder is its own."""
    worlds = list[World]()

    async def live() -> None:
        world = World(schedule.seed, recording, disk)
        worlds.append(world)
        with _logged(world):
            await world.live(schedule)

    try:
        loop.run(live, schedule.seed)
    except Stuck as stuck:
        worlds[0].history.broken(str(stuck))
    finally:
        recording.steps = []
    return worlds[0].history
