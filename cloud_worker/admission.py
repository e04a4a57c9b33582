"""Admission control: whether a message is taken at all, asked by its topic before a byte of it is read.

Each device has a token bucket: so many milliseconds of the worker's event loop a second. Messages have prices, as they
were measured, and what one takes beyond its price is charged too. Whoever has nothing left is not read, and is told so
once a second. A draft that was verified is given back, as forwards are shared fairly anyway; so devices that write pay
for little but their polls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from flexspec_mq import entropy, topics
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.protocol.effects import Reply
from flexspec_mq.scheduling.token_bucket import TokenBucket
from schemas.messages import Error, ErrorCode

if TYPE_CHECKING:
    from cloud_worker.settings import QuotaSettings

_log = logging.getLogger(__name__)

MESSAGE, OPEN, KILOBYTE, ANSWER = 0.1, 0.3, 0.06, 0.15
"""Milliseconds of one core of an AMD EPYC, and something more: of a message that is read, or of one that opens a
session; of each 1,000 bytes of it; of each answer."""
AGREEMENT = 0.35
"""Price of the keys of a session: signatures are checked, and shared secrets computed."""
TURNED_AWAY = 2.0
"""Price of an open beyond the device's own quota of sessions, tokens or grammars, and of a text that its grammar
ends: it was told so, and if it opens on and on it is soon not read."""
TELL_EVERY = 1.0
"""Seconds from one answer to a device over its quota to the next."""
_MOST_TOPICS = 8192
_MOST_DEVICES = 4096
"""Buckets that are kept. A broker with users knows no more names than it was given; one without has no end of them,
and then those are forgotten that are full."""


class MessageAdmission:
    """Admission of devices' messages.

    Attributes:
        refused: Messages that were not taken.
        told: Answers that said so.
    """

    def __init__(
        self,
        settings: QuotaSettings,
        worker: str,
        tell: Callable[[Reply], None],
        clock: Callable[[], float] = entropy.now,
        *,
        keyed: bool = False,
    ) -> None:
        self._opens = OPEN + AGREEMENT if keyed else OPEN
        self._rate, self._burst = settings.device_ms, settings.device_burst_ms
        self._worker = worker
        self._tell = tell
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._by_topic: dict[str, tuple[TokenBucket, float]] = {}
        self._throttle = LogThrottle()
        self.refused = self.told = 0

    @property
    def devices(self) -> int:
        """Number of devices that are remembered."""
        return len(self._buckets)

    def admit(self, topic: str, size: int) -> bool:
        """Whether a message is to be read; it is paid for if so. Called for every message, so it is quick.

        Args:
            topic: Topic on which it came; others than those of opens and drafts are none of a device, and free.
            size: Bytes of its payload and of its MQTT properties.
        """
        now = self._clock()
        payer = self._by_topic.get(topic)
        if payer is None or not payer[0].known:
            payer = self._payer(topic, now)
            if payer is None:
                return True
        bucket, price = payer
        if bucket.pay(price + KILOBYTE * size / 1000, now):
            return True
        self.refused += 1
        bucket.refused += 1
        if now >= bucket.tell_at:
            self._refuse(bucket, now)
        return False

    def took(self, topic: str, size: int, ms: float) -> None:
        """Charge a message that was admitted for the processor time beyond its price."""
        payer = self._by_topic.get(topic)
        if payer is not None:
            payer[0].charge(max(0.0, ms - payer[1] - KILOBYTE * size / 1000))

    def charge(self, device: str, ms: float) -> None:
        """Charge a device for answers or other work on its behalf; below 0 gives back what verified drafts cost."""
        if ms:
            self.bucket(device, self._clock()).charge(ms)

    def solvent(self, device: str) -> bool:
        """Whether work may be done for a device now."""
        now = self._clock()
        return self.bucket(device, now).refill(now) > 0.0

    def bucket(self, device: str, now: float) -> TokenBucket:
        """Bucket of a device, made full if there is none."""
        bucket = self._buckets.get(device)
        if bucket is None:
            if len(self._buckets) >= _MOST_DEVICES:
                full = [name for name, one in self._buckets.items() if one.refill(now) >= self._burst]
                for name in full or [next(iter(self._buckets))]:
                    self._buckets.pop(name).known = False
            bucket = self._buckets[device] = TokenBucket(device, self._rate, self._burst, self._burst, now)
        return bucket

    def _payer(self, topic: str, now: float) -> tuple[TokenBucket, float] | None:
        """Bucket that pays for messages on a topic, and their price; None if nobody has to."""
        sender = topics.sender_of(topic)
        if sender is None:
            return None
        payer = self.bucket(sender.edge, now), MESSAGE if sender.version is None else self._opens
        if len(self._by_topic) >= _MOST_TOPICS:
            self._by_topic.clear()
        self._by_topic[topic] = payer
        return payer

    def _refuse(self, bucket: TokenBucket, now: float) -> None:
        bucket.tell_at = now + TELL_EVERY
        wait = max(TELL_EVERY, bucket.wait)
        allowed = f"messages of one device may take {self._rate:g} ms of each second here"
        detail = f"{allowed}; {bucket.refused} were not read"
        error = Error(0, 0, ErrorCode.BUSY, round(1000 * wait), self._worker, detail)
        self.told += 1
        self._tell(Reply(bucket.device, error, 0))
        if self._throttle.due(bucket.device, "quota", now):
            count = bucket.refused
            _log.warning("edge %s is over its quota of messages: %d were not read", bucket.device, count)
