"""The daemons as processes, as a user starts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from broker.launcher import PrivateBroker, end_with_parent
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.status import WorkerStatus

CODEC = Codec()

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds that a process may keep silent before a test gives up on it; far more than it ever does."""


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Process:
    """``python -m module …`` with its JSON lines. Ends with the test process at the latest."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "default"},
            preexec_fn=end_with_parent(signal.SIGKILL),
            limit=2**20,
        )
        return cls(process)

    async def line(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next JSON line that is wanted."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while raw := await self._process.stdout.readline():
                found: dict[str, Any] = json.loads(raw)
                if wanted(found):
                    return found
        raise AssertionError(f"it ended: {await self.end()}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> tuple[int, str]:
        """Wait for its end; the exit code and standard error."""
        async with asyncio.timeout(PATIENCE):
            _, said = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, said.decode()

    async def kill(self) -> None:
        if self.runs:
            self._process.kill()
        await self._process.wait()


async def start_worker(broker: PrivateBroker, name: str, *arguments: str) -> Process:
    """Start a worker; its first line says that it serves."""
    where = f"{broker.host}:{broker.port}"
    return await Process.start(
        "cloud_worker",
        "--broker",
        where,
        "--worker",
        name,
        "--ready-json",
        "--status-every",
        "0.3",
        *arguments,
    )


async def status(broker: PrivateBroker, worker: str, wanted: Callable[[WorkerStatus], bool]) -> WorkerStatus:
    """Wait for a status of a worker."""
    settings = LinkSettings(
        port=broker.port,
        client_id=f"watch-{worker}-{os.getpid()}",
        subscriptions=(Subscription(topics.worker_status_topic(worker)),),
    )
    async with asyncio.timeout(PATIENCE), mqtt_link(settings) as link:
        async for event in link.events():
            if isinstance(event, Inbound):
                found = CODEC.decode_status(event.payload, WorkerStatus)
                if wanted(found):
                    return found
    raise AssertionError("the link ended")


def joined(parts: Sequence[dict[str, Any]]) -> str:
    """The text that `text` events show."""
    return "".join(piece for part in parts if part["type"] == "text" for piece, _ in part["pieces"])
