"""Statuses on the wire: who is there, and who fights for a name.

A retained status may be old; one that arrives while we watch is as new as the message. Workers renew theirs every few
seconds. A status says of which process it is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import LinkError, LinkRefused, RemoteProtocolError
from flexspec_mq.protocol.lives import life_of
from flexspec_mq.transport.base import Inbound
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.transport.link import Link

_RENEWED = 30.0
"""Seconds within which a retained status counts as that of a living worker; they renew it every 10."""
_TAKEOVER = 1.0
"""Seconds between the end of one process and the birth of another under the same name, below which the second one was
up before the first one ended: a daemon that is started again needs longer to load its model."""
_YOUNG = 60.0
"""Seconds after its start within which a daemon may still be part of a fight for its name."""
_MOST = 10_000
"""Statuses that are kept."""


class Listening(NamedTuple):
    """Seconds for which statuses are listened to.

    Attributes:
        at_least: Workers renew theirs every 10 s.
        at_most: Time in which a daemon that was thrown out loads its model and comes back; only where one is so young
            that it may have thrown out another.
    """

    at_least: float = 11.0
    at_most: float = 20.0


class Seen(NamedTuple):
    """A status.

    Attributes:
        at: Seconds on our monotonic clock.
        ahead: Seconds by which our clock is ahead of the sender's; None of a retained status, which may be old.
    """

    at: float
    status: WorkerStatus | EdgeStatus
    payload: bytes
    ahead: float | None

    @property
    def lives(self) -> bool:
        """It came while we watched, or was written a moment ago by our clock."""
        return self.ahead is not None or abs(time.time() - self.status.at) < _RENEWED


class Watch:
    """Collects the statuses of all workers and of one name.

    Attributes:
        other: Given what is no status.
        blind: Filters that the broker refused.
    """

    def __init__(self, topic: str, listening: Listening) -> None:
        self.topic = topic
        self.codec = Codec()
        self.seen: dict[str, list[Seen]] = {}
        self.blind: list[str] = []
        self.other: Callable[[Inbound], None] | None = None
        self.began = time.monotonic()
        self._listening = listening
        self._changed = asyncio.Event()

    async def run(self, link: Link) -> None:
        """Watch until cancelled, or until the link fails, which other checks then tell of."""
        try:
            for topic in dict.fromkeys((topics.worker_status_topic("+"), self.topic)):
                if topics.worker_of_status(topic) not in (None, "+"):
                    continue  # it is among all workers'
                try:
                    await link.subscribe(topic)
                except LinkRefused:
                    self.blind.append(topic)
            async for event in link.events():
                if isinstance(event, Inbound):
                    self._take(event)
        except LinkError:
            return

    def _take(self, inbound: Inbound) -> None:
        """Note a status; what is none, or is under another's name, is left to others to complain about."""
        status: WorkerStatus | EdgeStatus
        try:
            if topics.worker_of_status(inbound.topic) is not None:
                status = self.codec.decode_status(inbound.payload, WorkerStatus)
                name = status.worker
            elif inbound.topic == self.topic:
                status = self.codec.decode_status(inbound.payload, EdgeStatus)
                name = status.edge
            else:
                if self.other is not None:
                    self.other(inbound)
                return
        except RemoteProtocolError:
            return
        if inbound.topic.rpartition("/")[2] != name or sum(map(len, self.seen.values())) >= _MOST:
            return
        every = self.seen.setdefault(inbound.topic, [])
        if any(seen.payload == inbound.payload for seen in every):
            return  # sent once more by a doctor who tries the access rules
        ahead = None if inbound.retain else time.time() - status.at
        every.append(Seen(time.monotonic(), status, inbound.payload, ahead))
        self._changed.set()

    async def listen(self) -> None:
        """Watch long enough for fresh statuses, or until there is a fight for the name."""
        await self._until_fight(self._listening.at_least)

    async def settle(self) -> None:
        """Watch on where the daemon is so young that it may have thrown another out, which then throws it out again."""
        if self.online and time.time() - self.born < _YOUNG:
            await self._until_fight(self.began + self._listening.at_most - time.monotonic())

    async def _until_fight(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while not self.fights():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    @property
    def newest(self) -> Seen | None:
        """Last status of the name."""
        return self.seen[self.topic][-1] if self.topic in self.seen else None

    @property
    def born(self) -> float:
        """When the daemon of the name came up, in seconds since the Unix epoch; 0 without one."""
        return 0.0 if self.newest is None else self.newest.status.epoch / 1000

    @property
    def online(self) -> bool:
        """Whether the broker knows a daemon of the name to be online now."""
        if self.newest is None or self.newest.status.state == "gone":
            return False
        # Edges say it once, workers renew it.
        return isinstance(self.newest.status, EdgeStatus) or self.newest.lives

    def workers(self) -> list[tuple[WorkerStatus, Seen]]:
        """Last status of each worker that has one."""
        last = [every[-1] for every in self.seen.values()]
        return [(seen.status, seen) for seen in last if isinstance(seen.status, WorkerStatus)]

    def fights(self) -> int:
        """Number of takeovers of the name while we watched.

        Whoever ends, by itself or not, is said to be gone, by its will; a broker that hands an edge's session over to
        another process says nothing. So an online process after another that was not gone has thrown it out, or
        lives beside it. Where the will speaks at a takeover too, the new process is online at once.
        """
        return sum(
            before.status.state != "gone" or (before.ahead is not None and after.at - before.at < _TAKEOVER)
            for before, after in itertools.pairwise(self.seen.get(self.topic, ()))
            if life_of(after.status) != life_of(before.status)
            and after.status.state != "gone"
            and after.ahead is not None
        )
