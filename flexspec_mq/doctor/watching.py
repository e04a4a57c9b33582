"""What statuses on the wire tell: who is there, whose clock is off, and who fights for a name.

A retained status may be old; one that arrives while we watch is as new as the message. Workers renew theirs every few
seconds. A status carries the epoch of its process, so another epoch is another process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexspec_mq import codec, topics
from flexspec_mq.errors import LinkError, LinkRefused, RemoteProtocolError
from flexspec_mq.transport.base import Inbound
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.transport.base import Link

Status = WorkerStatus | EdgeStatus

TAKEOVER = 1.0
"""Seconds between the end of one process and the birth of another under the same name, below which the second one was
up before the first one ended: a daemon that is started again needs longer to load its model."""
_MOST = 10_000
"""Statuses that are kept."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One status.

    Attributes:
        at: seconds on our monotonic clock.
        ahead: seconds by which our clock is ahead of the sender's; None of a retained status, which may be old.
    """

    at: float
    status: Status
    payload: bytes
    ahead: float | None

    @property
    def fresh(self) -> bool:
        """It came while we watched."""
        return self.ahead is not None


@dataclass
class Watch:
    """Collects the statuses of all workers, and of one edge if it is given.

    Attributes:
        blind: filters that the broker refused.
    """

    edge: str | None = None
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _number: int = 0

    async def run(self, link: Link, other: Callable[[Inbound], None] | None = None) -> None:
        """Watch until cancelled, or until the link fails, which other checks then tell of.

        Args:
            link: whose events are read.
            other: given what is no status.
        """
        wanted = [topics.worker_status_topic("+")]
        if self.edge is not None:
            wanted.append(topics.edge_status_topic(self.edge))
        try:
            for one in wanted:
                try:
                    await link.subscribe(one)
                except LinkRefused:
                    self.blind.append(one)
            async for event in link.events():
                if not isinstance(event, Inbound):
                    continue
                if other is not None and topics.edge_of(event.topic) is not None:
                    other(event)
                else:
                    self.take(event)
        except LinkError:
            return

    def take(self, inbound: Inbound) -> None:
        """Note a status; what is none, or of another, is left to others to complain about."""
        status: Status
        try:
            if topics.worker_of_status(inbound.topic) is not None:
                status = codec.decode_status(inbound.payload, WorkerStatus)
            else:
                status = codec.decode_status(inbound.payload, EdgeStatus)
        except RemoteProtocolError:
            return
        name = status.worker if isinstance(status, WorkerStatus) else status.edge
        if inbound.topic.rpartition("/")[2] != name or self._number >= _MOST:
            return
        self._number += 1
        ahead = None if inbound.retain else time.time() - status.at
        self.seen.setdefault(inbound.topic, []).append(Seen(time.monotonic(), status, inbound.payload, ahead))
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Watch until something is so, or for so many seconds; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True

    def newest(self, topic: str) -> Seen | None:
        """The last status of a topic."""
        return self.seen[topic][-1] if topic in self.seen else None

    def workers(self) -> list[Seen]:
        """The last status of each worker that has one."""
        return [every[-1] for topic, every in self.seen.items() if topics.worker_of_status(topic)]

    def fights(self, topic: str) -> list[float]:
        """Takeovers of a name while we watched: for each, seconds between the two processes.

        Two processes that renew their status under one name without ever leaving alternate instead: then the gap
        is the time between their statuses.
        """
        gaps: list[float] = []
        every = self.seen.get(topic, [])
        epochs: list[int] = []
        for before, after in itertools.pairwise(every):
            if after.status.epoch == before.status.epoch or not after.fresh:
                continue
            old = after.status.epoch in epochs
            epochs.append(before.status.epoch)
            if (before.fresh and after.at - before.at < TAKEOVER and after.status.state != "gone") or (
                old and after.status.state != "gone"
            ):
                gaps.append(after.at - before.at)
        return gaps
