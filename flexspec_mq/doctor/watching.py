"""What statuses on the wire tell: who is there, whose clock is off, and who fights for a name.

A retained status may be old; one that arrives while we watch is as new as the message. Workers renew theirs every few
seconds. A status says of which process it is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import LinkError, LinkRefused, RemoteProtocolError
from flexspec_mq.protocol.lives import life_of
from flexspec_mq.transport.base import Inbound
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.transport.base import Link

Status = WorkerStatus | EdgeStatus

TAKEOVER = 1.0
"""Seconds between the end of one process and the birth of another under the same name, below which the second one was
up before the first one ended: a daemon that is started again needs longer to load its model."""
_YOUNG = 60.0
"""Seconds after its start within which a daemon may still be part of a fight for its name."""
_MOST = 10_000
"""Statuses that are kept."""


@dataclass(frozen=True, slots=True)
class Listening:
    """For how many seconds statuses are listened to.

    Attributes:
        at_least: workers renew theirs every 10 s.
        at_most: in which a daemon that was thrown out loads its model and comes back; only where one is so young
            that it may have thrown out another.
    """

    at_least: float = 11.0
    at_most: float = 20.0


LISTENING = Listening()
"""To daemons as they are shipped."""


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
        other: given what is no status.
        longer: seconds of the whole watch in which a daemon that was thrown out loads its model and comes back.
        blind: filters that the broker refused.
        codec: reads the statuses.
    """

    edge: str | None = None
    longer: float = 20.0
    other: Callable[[Inbound], None] | None = None
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    codec: Codec = field(default_factory=Codec)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _number: int = 0

    async def run(self, link: Link) -> None:
        """Watch until cancelled, or until the link fails, which other checks then tell of."""
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
                if self.other is not None and not self._is_status(event.topic):
                    self.other(event)
                else:
                    self.take(event)
        except LinkError:
            return

    def _is_status(self, topic: str) -> bool:
        if topics.worker_of_status(topic) is not None:
            return True
        return self.edge is not None and topic == topics.edge_status_topic(self.edge)

    def take(self, inbound: Inbound) -> None:
        """Note a status; what is none, or of another, is left to others to complain about."""
        status: Status
        try:
            if topics.worker_of_status(inbound.topic) is not None:
                status = self.codec.decode_status(inbound.payload, WorkerStatus)
            else:
                status = self.codec.decode_status(inbound.payload, EdgeStatus)
        except RemoteProtocolError:
            return
        name = status.worker if isinstance(status, WorkerStatus) else status.edge
        if inbound.topic.rpartition("/")[2] != name or self._number >= _MOST:
            return
        every = self.seen.setdefault(inbound.topic, [])
        if any(one.payload == inbound.payload for one in every):
            return  # sent once more by a doctor who tries the access rules
        self._number += 1
        ahead = None if inbound.retain else time.time() - status.at
        every.append(Seen(time.monotonic(), status, inbound.payload, ahead))
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

    async def settled(self, topic: str) -> None:
        """Watch on where a daemon is so young that it may have thrown another out, which then throws it out again."""
        newest = self.newest(topic)
        if newest is None or newest.status.state == "gone":
            return
        if time.time() - newest.status.epoch / 1000 < _YOUNG:
            left = self.began + self.longer - time.monotonic()
            await self.until(lambda: bool(self.fights(topic)), max(0.0, left))

    def newest(self, topic: str) -> Seen | None:
        """The last status of a topic."""
        return self.seen[topic][-1] if topic in self.seen else None

    def workers(self) -> list[Seen]:
        """The last status of each worker that has one."""
        return [every[-1] for topic, every in self.seen.items() if topics.worker_of_status(topic)]

    def fights(self, topic: str) -> list[float]:
        """Takeovers of a name while we watched; for each, seconds between the statuses of the two processes.

        Whoever ends, by itself or not, is said to be gone, by its will; a broker that hands an edge's session over to
        another process says nothing. So an online process after another that was not gone has thrown it out, or
        lives beside it. Where the will speaks at a takeover too, the new process is online at once.
        """
        every = self.seen.get(topic, [])
        gaps: list[float] = []
        for before, after in itertools.pairwise(every):
            if (
                life_of(after.status) == life_of(before.status)
                or after.status.state == "gone"
                or not after.fresh
            ):
                continue
            gap = after.at - before.at
            if before.status.state != "gone" or (before.fresh and gap < TAKEOVER):
                gaps.append(gap)
        return gaps
