"""A thousand devices that come back to a broker which was killed: nodes without drafts, a few hundred in a process.

    python -m lab.benchmarks.outages.crowd

reads one JSON order, `CrowdOrder`, from standard input and runs edge nodes, each with the files that were handed out to
its device. With each further line it says when each node's link came up last.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.deployment.bundles import SETTINGS
from broker.settings import Role
from edge_node.config import from_arguments
from edge_node.node import EdgeNode
from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.process import Process
from lab.testbed.secured import SecuredDeployment

WITHIN_S = 30.0
"""Time in which all are to be back."""
EACH = 250
"""Devices in one process."""
_FINGERPRINT = bytes(16)
_STARTS_WITHIN = 120.0
_LOOK = 0.1


class CrowdOrder(msgspec.Struct):
    """Order to a process.

    Attributes:
        folders: folders that were handed out to its devices.
        awaited: a text waits at each device while there is no link.
    """

    folders: list[str]
    awaited: bool


class Told(msgspec.Struct):
    """State of a process's nodes.

    Attributes:
        up: when each link came up last, on the clock of `time.perf_counter`; only of those that are up.
        connects, failed: connections that came up, and attempts that failed, of all since they began.
        cpu: seconds of the processor.
    """

    up: list[float]
    connects: int
    failed: int
    cpu: float


class _Member:
    """An edge node of the crowd."""

    def __init__(self, folder: Path, *, awaited: bool) -> None:
        config = from_arguments(Namespace(config=folder / SETTINGS[Role.EDGE])).settings
        self._node = EdgeNode(config.node, None, _FINGERPRINT, ())
        self._base = link_settings(config.link, f"e-{config.node.edge}")
        self._awaited = awaited
        self.link: Link | None = None
        self.up_at = 0.0

    async def run(self) -> None:
        """Run until cancelled; as long as the link is down, have a text wait for it, if that is wanted."""

        @asynccontextmanager
        async def connect(settings: LinkSettings) -> AsyncIterator[Link]:
            async with mqtt_link(settings, on_wait=lambda _: None) as self.link:
                yield self.link

        async with self._node.running(connect, self._base):
            while True:
                self.up_at = time.perf_counter()
                while self._node.link.is_up:  # noqa: ASYNC110  nothing tells
                    await asyncio.sleep(_LOOK)
                self.up_at = 0.0
                if self._awaited:
                    await self._node.link.wait_up(float("inf"))
                else:
                    await self._node.link.settled()


async def _serve() -> None:
    loop = asyncio.get_running_loop()

    async def line() -> str:
        return await loop.run_in_executor(None, sys.stdin.readline)

    order = msgspec.json.decode(await line(), type=CrowdOrder)
    members = [_Member(Path(folder), awaited=order.awaited) for folder in order.folders]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(member.run()) for member in members]
        while True:
            links = [member.link for member in members if member.link is not None]
            told = Told(
                [member.up_at for member in members if member.up_at],
                sum(link.counters.connects for link in links),
                sum(link.counters.attempts_failed for link in links),
                time.process_time(),
            )
            sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
            sys.stdout.flush()
            if not await line():
                break
        for task in running:
            task.cancel()


@dataclass(slots=True)
class Return:
    """How a crowd came back.

    Attributes:
        back: seconds from when the broker listened again, of each device, rising.
        failed: attempts to connect that failed after it listened.
        cpu: seconds of the processor that the devices took for it, all together.
    """

    back: list[float]
    failed: int
    cpu: float

    @property
    def rate(self) -> float:
        """Devices a second, of the middle nine tenths."""
        low, high = len(self.back) // 20, len(self.back) - 1 - len(self.back) // 20
        return (high - low) / max(1e-9, self.back[high] - self.back[low])


class Crowd:
    """Devices in processes of their own.

    Args:
        deployed: deployment that knows them.
        names: devices.
        awaited: a text waits at each while there is no link.
    """

    def __init__(self, deployed: SecuredDeployment, names: Sequence[str], *, awaited: bool) -> None:
        self._deployed = deployed
        self._names = names
        self._awaited = awaited
        self._parts: list[Process] = []

    async def start(self) -> None:
        """Start them all and wait until they are connected."""
        for first in range(0, len(self._names), EACH):
            names = self._names[first : first + EACH]
            folders = [str(self._deployed.bundle(Role.EDGE, name)) for name in names]
            part = await self._deployed.processes.start(
                f"crowd {first}", python("lab.benchmarks.outages.crowd")
            )
            await part.send(msgspec.json.encode(CrowdOrder(folders, self._awaited)))
            await part.line(_STARTS_WITHIN)
            self._parts.append(part)
        await self._all_up(time.perf_counter() + _STARTS_WITHIN)

    async def come_back(self, seconds: float) -> Return:
        """Kill the broker for so long, and see how they come back.

        Raises:
            FlexSpecError: not all are back within `WITHIN_S`.
        """
        before = await self._ask()
        back = await self._deployed.broker_away(seconds)
        failed = sum(one.failed for one in await self._ask())
        told = await self._all_up(back + WITHIN_S, after=back)
        return Return(
            sorted(at - back for one in told for at in one.up),
            sum(one.failed for one in told) - failed,
            sum(one.cpu for one in told) - sum(one.cpu for one in before),
        )

    async def _all_up(self, ends: float, after: float = 0.0) -> list[Told]:
        while True:
            told = await self._ask()
            if (up := sum(at > after for one in told for at in one.up)) == len(self._names):
                return told
            if time.perf_counter() > ends:
                raise FlexSpecError(f"{up} of {len(self._names)} devices are connected in time")
            await asyncio.sleep(_LOOK)

    async def _ask(self) -> list[Told]:
        for part in self._parts:
            await part.send(b"")
        return [msgspec.json.decode(await part.line(), type=Told) for part in self._parts]


if __name__ == "__main__":
    asyncio.run(_serve())
