"""Devices without models, real edge nodes on their own links, over a thousand in a process.

    python -m lab.benchmarks.connections.crowd FINGERPRINT FOLDER ...

runs a node for each folder that was handed out to a device. With each line on standard input it does an order, and
answers with a line of JSON: ``up`` tells when each link came up last, on the clock of `time.perf_counter`, only of
those that are up; ``wait`` and ``idle`` say whether a text waits from now on where there is no link; and a number has
so many of the devices ask for a text of one token each.
"""

import asyncio
import random
import resource
import sys
import time
import tomllib
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from broker.deployment.bundles import SETTINGS
from broker.settings import Role
from edge_node.config import EdgeConfig, from_arguments
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import MqttLink
from lab.testbed.process import Process, Processes
from schemas.messages import Sampling

T = TypeVar("T")

WITHIN_S = 300.0
"""Time in which all are to be connected."""
EACH = 1250
"""Devices in one process, at most."""
AT_ONCE = 64
"""Texts that the devices of one process have written at a time."""
_PROMPT = 32
_WORDS = 200
"""Token ids below which prompts are drawn: any vocabulary has as many."""
_LOOK = 0.2


class Texts(msgspec.Struct):
    """Texts that were asked for, and their fate.

    Attributes:
        answered: texts of which the token has come.
        failed: reasons of the others.
        seconds: seconds to each token.
        cpu: processor seconds of the devices.
    """

    answered: int = 0
    failed: list[str] = msgspec.field(default_factory=list)
    seconds: list[float] = msgspec.field(default_factory=list)
    cpu: float = 0.0

    def add(self, more: Self) -> None:
        """Count those of another process too."""
        self.answered += more.answered
        self.failed += more.failed
        self.seconds += more.seconds
        self.cpu += more.cpu


class _Link(MqttLink):
    """The link of a device, which knows since when it is up."""

    up_at = 0.0

    def _mark_up(self, *, anew: bool = True) -> None:
        super()._mark_up(anew=anew)
        self.up_at = time.perf_counter()


class _Device:
    def __init__(self, fingerprint: bytes, folder: Path, config: EdgeConfig) -> None:
        said = tomllib.loads((folder / SETTINGS[Role.EDGE]).read_text("utf-8"))
        name = said["username"]
        node = replace(config.node, edge=name, keys=folder / said["keys"])
        login = {"username": name, "password_file": folder / said["password_file"]}
        self._node = EdgeNode(node, None, fingerprint, ())
        self._base = link_settings(replace(config.link, broker=said["broker"], **login), f"e-{name}")
        self._link: _Link | None = None
        self.waits = False

    @property
    def up_at(self) -> float:
        """When the link came up; 0 while it is not."""
        return self._link.up_at if self._link is not None and self._link.is_up else 0.0

    async def run(self) -> None:
        """Run until cancelled."""
        async with self._node.running(self._connected, self._base):
            await self._node.wait_broken()

    async def ask(self, prompt: tuple[int, ...]) -> Finish:
        """Have a token written that follows a prompt."""
        plan = FixedPolicy(Plan(draft_length=0, ahead=1))
        request = GenerationRequest(prompt=prompt, sampling=Sampling(), limit=1, policy=plan, ignore_eos=True)
        async for event in self._node.generate(request):
            if isinstance(event, Finish):
                return event
        raise AssertionError("a text ends with its finish")

    @asynccontextmanager
    async def _connected(self, settings: LinkSettings) -> AsyncIterator[Link]:
        texts = settings.awaited or (lambda: False)
        self._link = link = _Link(replace(settings, awaited=lambda: self.waits or texts()), None)
        async with link.supervising(link.connect_loop()):
            yield link


async def _texts(devices: Sequence[_Device]) -> Texts:
    found, rng, began = Texts(), random.Random(id(devices)), time.process_time()
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(device: _Device) -> None:
        async with free:
            asked = time.perf_counter()
            finish = await device.ask(tuple(rng.randrange(3, _WORDS) for _ in range(_PROMPT)))
            if finish.reason is FinishReason.LENGTH:
                found.answered += 1
                found.seconds.append(time.perf_counter() - asked)
            else:
                found.failed.append(str(finish.error or finish.reason))

    await asyncio.gather(*map(ask, devices))
    found.cpu = time.process_time() - began
    return found


async def _serve(fingerprint: str, *folders: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = asyncio.get_running_loop()
    # All have the same settings but for names and files; to read them takes longer than to connect.
    config = from_arguments(Namespace(config=Path(folders[0], SETTINGS[Role.EDGE]))).settings
    devices = [_Device(bytes.fromhex(fingerprint), Path(folder), config) for folder in folders]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(device.run()) for device in devices]
        while order := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            answer: object = [device.up_at for device in devices if device.up_at]
            if order in {"wait", "idle"}:
                for device in devices:
                    device.waits = order == "wait"
            elif order != "up":
                answer = await _texts(devices[: int(order)])
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
            sys.stdout.flush()
        for task in running:
            task.cancel()


class Crowd:
    """Devices in processes of their own.

    Args:
        processes: ended with the deployment.
        fingerprint: fingerprint of the target's tokenizer.

    Attributes:
        number: number of devices.
    """

    def __init__(self, processes: Processes, fingerprint: bytes) -> None:
        self._processes = processes
        self._fingerprint = fingerprint
        self._parts: list[Process] = []
        self.number = 0

    async def join(self, folders: Sequence[Path]) -> float:
        """Start more devices, with the files that they were handed, and return the seconds until all are connected."""
        began = time.perf_counter()
        for first in range(0, len(folders), EACH):
            names = [str(folder) for folder in folders[first : first + EACH]]
            command = python("lab.benchmarks.connections.crowd", self._fingerprint.hex(), *names)
            name = f"devices {self.number}"
            self._parts.append(await self._processes.start(name, command))
            self.number += len(names)
        await self.all_up(began + WITHIN_S, self.number)
        return time.perf_counter() - began

    async def all_up(self, ends: float, number: int, after: float = 0.0) -> list[float]:
        """Wait until so many have connected since a time, and all are connected; when each did, rising.

        Raises:
            FlexSpecError: not by `ends`.
        """
        while True:
            up = [at for told in await self._each("up", list[float]) for at in told]
            since = sorted(at for at in up if at > after)
            if len(up) == self.number and len(since) >= number:
                return since
            if time.perf_counter() > ends:
                raise FlexSpecError(f"{len(since)} of {number} devices are connected in time")
            await asyncio.sleep(_LOOK)

    async def texts(self, number: int) -> Texts:
        """Have so many devices ask for a text, as many in each process."""
        found = Texts()
        for part in await self._each(str(-(-number // len(self._parts))), Texts):
            found.add(part)
        return found

    async def wait(self, *, awaited: bool) -> None:
        """Have a text wait at each device, or none, when the link is lost next."""
        await self._each("wait" if awaited else "idle", list[float])

    async def _each(self, order: str, kind: type[T]) -> list[T]:
        for part in self._parts:
            await part.send(order.encode())
        return [msgspec.json.decode(await part.line(WITHIN_S), type=kind) for part in self._parts]


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
