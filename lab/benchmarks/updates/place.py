"""A family with a broker, an operator, and a witness who notes when each message of it came."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import flexspec_mq.heads
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import Daemon, LocalDeployment, with_broker
from lab.testbed.family import Operator
from schemas.status import WorkerStatus

FAMILY = "smol"
EXAMPLES = Path(flexspec_mq.heads.__file__).parent / "examples"
HEADS = tuple(sorted(one.name for one in EXAMPLES.iterdir() if one.is_dir()))
"""Heads that ship."""
_WITHIN = 300.0


@dataclass(slots=True)
class Witness:
    """Notes what comes on the topics of a family and of workers.

    Attributes:
        catalogues: when each catalogue came.
        ready: when a worker first said that it serves a version, by both names.
        workers: the last status of each.
    """

    catalogues: list[float] = field(default_factory=list)
    ready: dict[tuple[str, str], float] = field(default_factory=dict)
    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    _codec: Codec = field(default_factory=Codec)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, link: Link) -> None:
        """Note what comes, until cancelled."""
        async for event in link.events():
            if isinstance(event, Inbound):
                self._note(event)
                self._changed.set()

    def states(self, worker: str) -> dict[str, str]:
        """States of a worker's versions, as it says; empty while it is gone."""
        found = self.workers.get(worker)
        if found is None or found.state != "online":
            return {}
        return {one.name: one.state for one in found.versions}

    async def until(self, wanted: Callable[[], bool], what: str) -> None:
        """Wait until something is so.

        Raises:
            FlexSpecError: it is not within five minutes.
        """
        try:
            async with asyncio.timeout(_WITHIN):
                while not wanted():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            said = {name: self.states(name) for name in self.workers}
            raise FlexSpecError(f"not so after {_WITHIN:.0f} s: {what}; workers say {said}") from None

    def _note(self, event: Inbound) -> None:
        now = time.perf_counter()
        if event.topic == topics.catalogue_topic(FAMILY):
            self.catalogues.append(now)
            return
        status = self._codec.decode_status(event.payload, WorkerStatus)
        self.workers[status.worker] = status
        if status.state == "online":
            for one in status.versions:
                if one.state == "ready":
                    self.ready.setdefault((status.worker, one.name), now)


@dataclass(slots=True)
class BenchTestbed:
    """A broker, and a family whose first version, `v0`, is the base.

    Attributes:
        here: processes with a broker.
        operator: operator of the family.
        witness: witness of its messages.
    """

    here: LocalDeployment
    operator: Operator
    witness: Witness

    async def worker(self, name: str, *flags: str) -> Daemon:
        """Start a worker that follows, and wait until it serves `v0`."""
        found = await self.here.worker(name, *self.operator.follow(name), *flags)
        await self.witness.until(
            lambda: self.witness.states(name).get("v0") == "ready", f"v0 is ready at {name}"
        )
        return found

    async def edge(self, name: str, *flags: str) -> Daemon:
        """Start an edge that follows."""
        return await self.here.edge(name, *self.operator.follow(name), *flags)


@asynccontextmanager
async def place() -> AsyncIterator[BenchTestbed]:
    """A family on loopback."""
    async with with_broker() as here:
        with tempfile.TemporaryDirectory(prefix="flexspec-heads-") as folder:
            operator = await Operator.create(here, FAMILY, Path(folder))
            await operator.begin("v0", await operator.base())
            wanted = (topics.catalogue_topic(FAMILY), topics.worker_status_topic("+"))
            settings = LinkSettings(
                port=here.port, client_id="witness", subscriptions=tuple(map(Subscription, wanted))
            )
            witness = Witness()
            async with mqtt_link(settings) as link, running(witness.listen(link), "witness"):
                await link.wait_up(10.0)
                yield BenchTestbed(here, operator, witness)
