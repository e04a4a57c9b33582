"""The daemons as processes, as a user starts them."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from broker.launcher import PrivateBroker
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.demo.children import python
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.models.load import LoadedText
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.process import Process
from schemas.status import EdgeStatus, WorkerStatus

CODEC = Codec()
Status = TypeVar("Status", EdgeStatus, WorkerStatus)

PATIENCE = 60.0
"""Seconds that a process may keep silent before a test gives up on it; far more than it ever does."""


async def start(module: str, *arguments: str, **environment: str) -> Process:
    """``python -m module …``; ends with the test process at the latest."""
    env = {"PYTHONWARNINGS": "default", **environment}
    return await Process.start(module, python(module, *arguments), env=env)


async def start_worker(broker: PrivateBroker, name: str, *arguments: str) -> Process:
    """Start a worker; its first line says that it serves."""
    own = ("--worker", name, "--ready-json", "--status-every", "0.3")
    return await start("cloud_worker", "--broker", f"{broker.host}:{broker.port}", *own, *arguments)


async def ended(process: Process) -> tuple[int, str]:
    """Wait for its end; the exit code and standard error."""
    return await process.wait(PATIENCE), process.said


async def events_of(process: Process) -> list[dict[str, Any]]:
    """All events of ``ask --events``, which must end well."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != "finish":
        events.append(await process.event())
    code, said = await ended(process)
    assert code == 0, said
    return events


async def status(broker: PrivateBroker, worker: str, wanted: Callable[[WorkerStatus], bool]) -> WorkerStatus:
    """Wait for a status of a worker."""
    return await status_on(broker, topics.worker_status_topic(worker), WorkerStatus, wanted)


async def status_on(
    broker: PrivateBroker, topic: str, kind: type[Status], wanted: Callable[[Status], bool]
) -> Status:
    """Wait for a status on its topic."""
    client_id = f"watch-{topic.replace('/', '-')}-{os.getpid()}"
    settings = LinkSettings(port=broker.port, client_id=client_id, subscriptions=(Subscription(topic),))
    async with asyncio.timeout(PATIENCE), mqtt_link(settings) as link:
        async for event in link.events():
            if isinstance(event, Inbound):
                status = CODEC.decode_status(event.payload, kind)
                if wanted(status):
                    return status
    raise AssertionError("the link ended")


@asynccontextmanager
async def edge_of(
    broker: PrivateBroker, name: str, drafter: Drafter | None, text: LoadedText, **more: Any
) -> AsyncIterator[EdgeNode]:
    """An edge node of this process."""
    node = EdgeNode(EdgeSettings(edge=name), drafter, text.fingerprint, text.eos, **more)
    link = LinkSettings(port=broker.port, client_id=f"e-{name}", backoff=0.05, backoff_max=0.2)
    async with node.running(mqtt_link, link):
        yield node


@contextmanager
def silent_port() -> Iterator[int]:
    """A port where nobody listens, and nobody can while the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def joined(parts: Sequence[dict[str, Any]]) -> str:
    """The text that `text` events show."""
    return "".join(piece for part in parts if part["type"] == "text" for piece, _ in part["pieces"])
