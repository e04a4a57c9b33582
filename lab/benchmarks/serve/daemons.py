"""Footprints of worker and edge node, as their figures say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lab.testbed.deployment import Daemon, LocalDeployment, local_deployment

END_WITHIN = 90.0
"""Seconds for a worker with sessions to end in order."""
QUICK_STATUS = ("--status-every", "1")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Footprint of a process.

    Attributes:
        memory: resident bytes.
        files: open descriptors.
        tasks: tasks of its event loop, the one that answers included.
        sessions: texts that go on.
    """

    memory: int
    files: int
    tasks: int
    sessions: int

    @classmethod
    async def read(cls, daemon: Daemon) -> Footprint:
        """Footprint of a worker or an edge node now."""
        found = await daemon.figures()
        is_edge = "flexspec_edge_sessions" in found
        return cls(
            memory=int(found["process_resident_memory_bytes"]),
            files=int(found["process_open_fds"]),
            tasks=int(found["flexspec_edge_tasks" if is_edge else "flexspec_worker_tasks"]),
            sessions=int(found["flexspec_edge_sessions" if is_edge else "flexspec_worker_live_sessions"]),
        )


@asynccontextmanager
async def with_broker() -> AsyncIterator[LocalDeployment]:
    """A place on loopback with a broker, where what daemons say goes to files."""
    async with local_deployment(logs=True) as here:
        await here.start_broker()
        yield here


async def settled(daemon: Daemon, patience: float = 10.0) -> Footprint:
    """Footprint once no text goes on, or after some seconds of waiting for that."""
    ends = time.monotonic() + patience
    while (found := await Footprint.read(daemon)).sessions and time.monotonic() < ends:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return found
