"""The one directory of workers on an edge: what the retained statuses of all of them say.

The node reads statuses from its link and gives them here. A broker that allows no wildcard there costs knowledge,
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.expiring import ExpiringMap, LogThrottle
from flexspec_mq.errors import LinkDown, LinkRefused, RemoteProtocolError
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.fingerprint import Difference
from flexspec_mq.protocol.incarnations import Incarnations, incarnation_of
from schemas.catalogue import MAX_VERSIONS
from schemas.messages import AS_THE_TARGET, Sampling
from schemas.status import VersionStatus, WorkerStatus

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link

MAX_WORKERS = 1024
"""Workers known at most; of more, the one that has been silent for longest is forgotten."""
MAX_TEMPERATURE = 2.0
"""Highest temperature that a worker may recommend; a user may ask for more."""

_log = logging.getLogger(__name__)


class TargetVersion(NamedTuple):
    """A target version that writes a text.

    Attributes:
        version: name on topics.
        digest: SHA-256 of its head's manifest, in hex; empty where no catalogue tells it.
    """

    version: str
    digest: str = ""


class News(NamedTuple):
    """A status that was taken.

    Attributes:
        ended: true if the process of that name before it is over, or has only lost its connection for a moment, so
            that its sessions ask it again, and do not give it up.
        begins: versions of which this worker takes new sessions, and did not before; or has not said so since our link
            came up, as it may have come back after us.
    """

    status: WorkerStatus
    ended: bool
    begins: frozenset[str]


def _served(status: WorkerStatus | None) -> frozenset[str]:
    if status is None or status.state != "online":
        return frozenset()
    return frozenset(version.name for version in status.ready)


class WorkerDirectory:
    """Which workers are online, and which have ended.

    A device that does nothing does not follow the statuses: what was known stays, and ages of it stand still.

    Args:
        clock: seconds.
        allowed: given a status, as read and as it came, and the time, what of it its worker may say, or None if it
            is no news; None is all of it. Where it is given, nobody clears a status either: that is not signed.
        compare: says how the tokenizer of a worker's target differs from the draft's.

    Attributes:
        blind: the broker does not let us see the statuses of workers.
    """

    def __init__(
        self,
        clock: Callable[[], float] = entropy.now,
        allowed: Callable[[WorkerStatus, bytes, float], WorkerStatus | None] | None = None,
        compare: Callable[[WorkerStatus], Difference] = lambda _: Difference(),
    ) -> None:
        self._clock = clock
        self._allowed = allowed
        self.compare = compare
        self._codec = Codec()
        self._known: ExpiringMap[str, WorkerStatus] = ExpiringMap(most=MAX_WORKERS, ttl=waiting.STALE)
        self._incarnations: ExpiringMap[str, Incarnations] = ExpiringMap(most=MAX_WORKERS)
        self._told: ExpiringMap[str, Sampling] = ExpiringMap(most=MAX_VERSIONS)
        self._throttle = LogThrottle()
        self._linked: ExpiringMap[str, None] = ExpiringMap(most=MAX_WORKERS)
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()
        self._left_at: float | None = None  # when the statuses were followed no more
        self.blind = False

    @property
    def any(self) -> bool:
        """Whether there is a status of any worker, online or not."""
        return len(self._known) > 0

    def _serving(self, version: str) -> list[tuple[WorkerStatus, VersionStatus]]:
        """Statuses of workers that take new sessions of a version, and what they say of it, the newest last."""
        return [
            (status, known) for status in self.online() for known in status.ready if known.name == version
        ]

    def online(self) -> list[WorkerStatus]:
        """Statuses of workers that take new sessions, the newest last."""
        now = self._clock() if self._left_at is None else self._left_at
        return [status for _, status, _ in self._known.alive(now) if status.state == "online"]

    def seen(self) -> list[tuple[float, WorkerStatus]]:
        """Newest statuses of workers that are not gone, by name, each with its age in seconds."""
        now = self._clock() if self._left_at is None else self._left_at
        return [
            (now + waiting.STALE - expires, status)
            for _, status, expires in sorted(self._known.alive(now), key=itemgetter(0))
            if status.state != "gone"
        ]

    def versions(self) -> dict[str, int]:
        """Versions that have a worker online, and since when: ms since the Unix epoch."""
        since: dict[str, int] = {}
        for status in self.online():
            for version in status.ready:
                since[version.name] = min(status.epoch, since.get(version.name, status.epoch))
        return since

    def since(self, target: TargetVersion) -> int | None:
        """Since when a worker that is online serves just this head, ms since the Unix epoch; None without any.

        A worker that tells no digest follows no family, and is taken at its word; so is the name where we follow none.
        Others tell its beginning.
        """
        digests = [(status.epoch, version.digest) for status, version in self._serving(target.version)]
        same = (epoch for epoch, digest in digests if not target.digest or target.digest.startswith(digest))
        return min(same, default=None)

    def status(self, version: str) -> WorkerStatus | None:
        """The newest status of a version's worker that is online; None without any."""
        return next((status for status, _ in reversed(self._serving(version))), None)

    def described(self, version: str) -> tuple[str, str]:
        """Exactness of any text of a version, and the weights of its target, as its workers say.

        The exactness is the weakest word, ``unknown`` without any worker; the weights are the newest word.
        """
        serving = self._serving(version)
        words = {stated.exactness or status.exactness for status, stated in serving}
        weakest = "unknown", "the server's", "exact up to ties", "exact"
        exactness = next((word for word in weakest if word in words), "unknown")
        return exactness, serving[-1][0].weights if serving else ""

    def recommended(self, version: str) -> Sampling:
        """How the makers of a version's target recommend to choose its tokens; temperature 1 if they are silent.

        As the worker said that took the last session which was begun otherwise; before any did, as a status says.
        """
        if (told := self._told.get(version, 0.0)) is not None:
            return told
        status = self.status(version)
        if status is not None:
            stated = status.recommended.over(AS_THE_TARGET)
            if self._is_sane(status.worker, version, stated):
                return stated
        return AS_THE_TARGET

    def take_recommendation(self, version: str, worker: str, sampling: Sampling) -> bool:
        """Take what a worker recommends that has taken a session of a version; False if nobody recommends that.

        From then on statuses, which any worker may write, no longer say it.
        """
        if sane := self._is_sane(worker, version, sampling):
            self._told.put(version, sampling, 0.0)
        return sane

    def _is_sane(self, worker: str, version: str, sampling: Sampling) -> bool:
        if sampling.temperature <= MAX_TEMPERATURE:
            return True
        if self._throttle.due(worker, version, self._clock()):
            _log.warning(
                "worker %s recommends temperature %g for version %s, above %g: ignored",
                worker,
                sampling.temperature,
                version,
                MAX_TEMPERATURE,
            )
        return False

    def grammar_engine(self, version: str) -> str:
        """Name of the reader of grammars at workers of a version, ours while none has told; empty if they have none."""
        statuses = self.statuses(version)
        return next(
            (status.grammar for status in statuses if status.grammar), "" if statuses else engine_name()
        )

    def statuses(self, version: str) -> list[WorkerStatus]:
        """Statuses of workers that take new sessions of a version, the newest last."""
        return [status for status, _ in self._serving(version)]

    def elsewhere(self, version: str, worker: str | None) -> bool:
        """Whether another worker than this takes texts of a version, as far as is known; for None, more than one."""
        serving = {status.worker for status in self.statuses(version)} - {worker}
        return self.blind or len(serving) > (worker is None)

    def changed(self) -> None:
        """Have what is waited for looked at again."""
        self._news.set()

    def difference(self, version: str) -> Difference:
        """How the target's tokenizer differs from the draft's, at the worker of a version where it does the least."""
        differences = [self.compare(status) for status in self.statuses(version)]
        return min(
            differences, key=lambda each: (bool(each.fatal), bool(each.harmless)), default=Difference()
        )

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds until the statuses of workers make something so; tell whether it is.

        Statuses also grow old, so it is looked at again now and then.
        """
        ends = entropy.now() + timeout
        while not condition():
            self._wanted.set()
            if (left := ends - entropy.now()) <= 0:
                return False
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, waiting.LOOK)):
                    await self._news.wait()
        return True

    def link_lost(self) -> None:
        """Note that our link is lost; theirs may be, too."""
        self._linked = ExpiringMap(most=MAX_WORKERS)

    def take(self, worker: str, payload: bytes, *, retained: bool = True) -> News | None:
        """Take a status as it came; None if it was cleared, or is a late one of an earlier process.

        Args:
            worker: name on its topic.
            payload: the message.
            retained: the broker had kept it, so that the worker may be gone since.

        Raises:
            RemoteProtocolError: it cannot be read, or is that of another worker, or not believed.
        """
        if not payload:
            if self._allowed is not None:
                return None
            self._known.pop(worker)
            self._incarnations.pop(worker)
            return None
        try:
            status = self._codec.decode_status(payload, WorkerStatus)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(
                f"the status of worker {worker} cannot be read: {error.message}"
            ) from error
        if status.worker != worker:
            raise RemoteProtocolError(f"the status of worker {worker} is that of {status.worker}")
        now = self._clock()
        if self._allowed is not None:
            if (allowed := self._allowed(status, payload, now)) is None:
                return None
            status = allowed
        incarnations = self._incarnations.get(worker, now) or Incarnations()
        incarnation, before = incarnation_of(status), incarnations.current
        known = self._known.get(worker, now)
        if not incarnations.take(status, silent=known is None):
            return None
        self._known.put(worker, status, now)
        self._incarnations.put(worker, incarnations, now)
        self._news.set()
        ended = status.state == "gone" or before not in (None, incarnation)
        back = not retained and worker not in self._linked
        if not retained:
            self._linked.put(worker, None, now)
        return News(status, ended, _served(status) - (frozenset() if ended or back else _served(known)))

    def used(self) -> None:
        """Follow the statuses from in a moment on; until then an answer that comes soon has the link for itself."""
        if self._left_at is not None:
            asyncio.get_running_loop().call_later(waiting.ANSWER, self._wanted.set)

    def follow(self) -> None:
        """Follow the statuses from now on."""
        self._wanted.set()

    async def refreshed(self) -> None:
        """Wait for what the broker retains, if the statuses were not followed; not for long."""
        if self._left_at is not None:
            self.follow()
            await asyncio.sleep(0.3 * waiting.ANSWER)

    async def watch(self, link: Link, idle: Callable[[], bool]) -> None:
        """Subscribe to the statuses of all workers, but for the time in which the node is idle.

        Raises:
            LinkError: the link failed for good.
        """
        statuses = topics.worker_status_topic("+")
        while True:
            try:
                await link.subscribe(statuses)
            except LinkDown:  # the link remembers it
                pass
            except LinkRefused as error:
                self.blind = True
                _log.warning("which workers are online cannot be watched: %s", error.message)
                return
            self._follow()
            while not idle() or self._wanted.is_set():
                self._wanted.clear()
                await asyncio.sleep(3 * waiting.STATUS)
            with contextlib.suppress(LinkDown):
                await link.unsubscribe(statuses)
            self._left_at = self._clock()
            await self._wanted.wait()

    def _follow(self) -> None:
        """Go on with what is known as if no time had passed since the statuses were left."""
        left, self._left_at = self._left_at, None
        if left is None:
            return
        for worker, status, _ in self._known.alive(left):
            self._known.put(worker, status, self._clock())
