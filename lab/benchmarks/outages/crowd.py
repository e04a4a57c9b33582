"""A thousand devices that come back to a broker which was killed: nodes without drafts, a few hundred in a process.

    python -m lab.benchmarks.outages.crowd idle|awaited FOLDER ...

runs edge nodes, each with the files that were handed out to its device. With each line on standard input it says, as a
JSON list, when each link came up last, on the clock of `time.perf_counter`; only of those that are up. A text waits at
awaited ones while there is no link.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from broker.deployment.bundles import SETTINGS
from broker.settings import Role
from edge_node.config import from_arguments
from edge_node.node import EdgeNode
from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.transport.arguments import link_settings
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


class _Member:
    """An edge node of the crowd."""

    def __init__(self, folder: Path, *, awaited: bool) -> None:
        config = from_arguments(Namespace(config=folder / SETTINGS[Role.EDGE])).settings
        self._node = EdgeNode(config.node, None, _FINGERPRINT, ())
        self._base = link_settings(config.link, f"e-{config.node.edge}")
        self._awaited = awaited
        self.up_at = 0.0

    async def run(self) -> None:
        """Run until cancelled; as long as the link is down, have a text wait for it, if that is wanted."""
        async with self._node.running(mqtt_link, self._base):
            while True:
                self.up_at = time.perf_counter()
                while self._node.link.is_up:  # noqa: ASYNC110  nothing tells
                    await asyncio.sleep(_LOOK)
                self.up_at = 0.0
                if self._awaited:
                    await self._node.link.wait_up(float("inf"))
                else:
                    await self._node.link.settled()


async def _serve(way: str, *folders: str) -> None:
    loop = asyncio.get_running_loop()
    members = [_Member(Path(folder), awaited=way == "awaited") for folder in folders]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(member.run()) for member in members]
        while True:
            up = [member.up_at for member in members if member.up_at]
            sys.stdout.write(json.dumps(up) + "\n")
            sys.stdout.flush()
            if not await loop.run_in_executor(None, sys.stdin.readline):
                break
        for task in running:
            task.cancel()


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
            command = python("lab.benchmarks.outages.crowd", "awaited" if self._awaited else "idle", *folders)
            part = await self._deployed.processes.start(f"crowd {first}", command)
            await part.line(_STARTS_WITHIN)
            self._parts.append(part)
        await self._all_up(time.perf_counter() + _STARTS_WITHIN)

    async def come_back(self, seconds: float) -> list[float]:
        """Kill the broker for so long; seconds from when it listened again until each device was back, rising.

        Raises:
            FlexSpecError: not all are back within `WITHIN_S`.
        """
        back = await self._deployed.broker_away(seconds)
        return sorted(at - back for at in await self._all_up(back + WITHIN_S, after=back))

    async def _all_up(self, ends: float, after: float = 0.0) -> list[float]:
        while True:
            for part in self._parts:
                await part.send(b"")
            up = [at for part in self._parts for at in json.loads(await part.line()) if at > after]
            if len(up) == len(self._names):
                return up
            if time.perf_counter() > ends:
                raise FlexSpecError(f"{len(up)} of {len(self._names)} devices are connected in time")
            await asyncio.sleep(_LOOK)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
