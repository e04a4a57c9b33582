"""Statuses on the wire: who is there, and who fights for a name.

A retained status may be old; one that arrives while we watch is as new as the message. Workers renew theirs every few
seconds. A status says of which process it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import LinkError, LinkRefused, RemoteProtocolError
from flexspec_mq.protocol.lives import life_of
from flexspec_mq.transport.base import Inbound
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link

_RENEWED = 30.0
"""Seconds within which a retained status counts as that of a living worker."""
_TAKEOVER = 1.0
"""Seconds between the end of one process and the birth of another under the same name, below which the second one was
up before the first one ended: a daemon that is started again needs longer to load its model."""
_MOST = 10_000
"""Statuses that are kept."""
_WAITING = 64
"""Other messages that are kept until somebody wants them, the newest."""


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

    Args:
        topic: Status of the name.
        seconds: Time to listen.

    Attributes:
        seen: Last status by topic.
        takeovers: Processes that took the name over, while we watched, from one that had not ended.
        blind: Filters that the broker refused.
        texts: Documents of targets' texts, by worker.
    """

    def __init__(self, topic: str, seconds: float) -> None:
        self.topic = topic
        self.codec = Codec()
        self.seen: dict[str, Seen] = {}
        self.takeovers = 0
        self.blind: list[str] = []
        self.texts: dict[str, bytes] = {}
        self._others = asyncio.Queue[Inbound](_WAITING)
        self.seconds = seconds
        self._began = time.monotonic()

    async def run(self, link: Link) -> None:
        """Watch until cancelled, or until the link fails, which other checks then tell of."""
        self._began = time.monotonic()
        try:
            every = (topics.target_text_topic("+"), topics.worker_status_topic("+"), self.topic)
            for topic in dict.fromkeys(every):
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
        if (worker := topics.worker_of_status(inbound.topic, "t")) is not None:
            self.texts[worker] = inbound.payload
            return
        try:
            if topics.worker_of_status(inbound.topic) is not None:
                status = self.codec.decode_status(inbound.payload, WorkerStatus)
                name = status.worker
            elif inbound.topic == self.topic:
                status = self.codec.decode_status(inbound.payload, EdgeStatus)
                name = status.edge
            else:
                if self._others.full():
                    self._others.get_nowait()
                self._others.put_nowait(inbound)
                return
        except RemoteProtocolError:
            return
        before = self.seen.get(inbound.topic)
        if inbound.topic.rpartition("/")[2] != name or (before is None and len(self.seen) >= _MOST):
            return
        if before is not None and before.payload == inbound.payload:
            return  # sent once more by a doctor who tries the access rules
        ahead = None if inbound.retain else time.time() - status.at
        after = self.seen[inbound.topic] = Seen(time.monotonic(), status, inbound.payload, ahead)
        self.takeovers += inbound.topic == self.topic and _took_over(before, after)

    async def next_of(self, *wanted: str) -> Inbound:
        """The next message on one of these topics, which are none of statuses; what came on others is dropped."""
        while (inbound := await self._others.get()).topic not in wanted:
            pass
        return inbound

    async def listen(self) -> None:
        """Wait until there was time enough for fresh statuses, and for a fight for the name."""
        await asyncio.sleep(max(0.0, self._began + self.seconds - time.monotonic()))

    @property
    def newest(self) -> Seen | None:
        """Last status of the name."""
        return self.seen.get(self.topic)

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
        return [(seen.status, seen) for seen in self.seen.values() if isinstance(seen.status, WorkerStatus)]


def _took_over(before: Seen | None, after: Seen) -> bool:
    """Whether a process came under a name that another one had.

    Whoever ends, by itself or not, is said to be gone, by its will; a broker that hands an edge's session over to
    another process says nothing. So an online process after another that was not gone has thrown it out, or lives
    beside it. Where the will speaks at a takeover too, the new process is online at once.
    """
    if before is None or life_of(after.status) == life_of(before.status):
        return False
    if after.status.state == "gone" or after.ahead is None:
        return False
    return before.status.state != "gone" or (before.ahead is not None and after.at - before.at < _TAKEOVER)
