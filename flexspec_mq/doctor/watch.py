"""Statuses on the wire: who is there, and who fights for a name.

A retained status may be old; one that arrives while we watch is as new as the message. Workers renew theirs every few
seconds. A status says of which process it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.incarnations import incarnation_of
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.transport.base import Inbound

_RENEWED: Final = 30.0
"""Seconds within which a retained status counts as that of a living worker."""
_TAKEOVER: Final = 1.0
"""Seconds between the end of one process and the birth of another under the same name, below which the second one was
up before the first one ended: a daemon that is started again needs longer to load its model."""
_MOST: Final = 10_000
"""Statuses that are kept."""


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
        self.seconds = seconds
        self.began = time.monotonic()

    @property
    def filters(self) -> list[str]:
        """Topics to subscribe to; a worker's own status is among those of all."""
        own = () if topics.worker_of_status(self.topic) else (self.topic,)
        return [topics.target_text_topic("+"), topics.worker_status_topic("+"), *own]

    def take(self, inbound: Inbound) -> bool:
        """Note a status, and tell whether it is one; a bad one, or one under another's name, is left to others."""
        if (worker := topics.worker_of_status(inbound.topic, "t")) is not None:
            self.texts[worker] = inbound.payload
            return True
        of_worker, decode = topics.worker_of_status(inbound.topic), self.codec.decode_status
        if of_worker is None and inbound.topic != self.topic:
            return False
        status: WorkerStatus | EdgeStatus
        try:
            if of_worker is not None:
                status = decode(inbound.payload, WorkerStatus)
            else:
                status = decode(inbound.payload, EdgeStatus)
        except RemoteProtocolError:
            return True
        name = status.worker if isinstance(status, WorkerStatus) else status.edge
        before = self.seen.get(inbound.topic)
        if inbound.topic.rpartition("/")[2] != name or (before is None and len(self.seen) >= _MOST):
            return True
        if (
            before is None or before.payload != inbound.payload
        ):  # else sent once more by a doctor who tries the rules
            ahead = None if inbound.retain else time.time() - status.at
            after = self.seen[inbound.topic] = Seen(time.monotonic(), status, inbound.payload, ahead)
            self.takeovers += inbound.topic == self.topic and _took_over(before, after)
        return True

    async def listen(self) -> None:
        """Wait until there was time enough for fresh statuses, and for a fight for the name."""
        await asyncio.sleep(max(0.0, self.began + self.seconds - time.monotonic()))

    @property
    def newest(self) -> Seen | None:
        """Last status of the name."""
        return self.seen.get(self.topic)

    @property
    def online(self) -> bool:
        """Whether the broker knows a daemon of the name to be online now; edges say it once, workers renew it."""
        newest = self.newest
        if newest is None or newest.status.state == "gone":
            return False
        return isinstance(newest.status, EdgeStatus) or newest.lives

    def workers(self) -> list[tuple[WorkerStatus, Seen]]:
        """Last status of each worker that has one."""
        return [(seen.status, seen) for seen in self.seen.values() if isinstance(seen.status, WorkerStatus)]


def _took_over(before: Seen | None, after: Seen) -> bool:
    """Whether a process came under a name that another one had.

    Whoever ends, by itself or not, is said to be gone, by its will; a broker that hands an edge's session over to
    another process says nothing. So an online process after another that was not gone has thrown it out, or lives
    beside it. Where the will speaks at a takeover too, the new process is online at once.
    """
    if before is None or incarnation_of(after.status) == incarnation_of(before.status):
        return False
    if after.status.state == "gone" or after.ahead is None:
        return False
    return before.status.state != "gone" or (before.ahead is not None and after.at - before.at < _TAKEOVER)
