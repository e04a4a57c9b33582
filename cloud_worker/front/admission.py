"""Whether a message is taken at all: asked by its topic, before a byte of it is read.

Each device has so many milliseconds of the worker's event loop a second, and messages have prices: what they were
measured to cost. Whoever has nothing left is not read, and is told so once a second. A draft that was verified is
given back, as forwards are shared fairly anyway; so devices that write pay for little but their polls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud_worker.front.token_bucket import Account, Accounts
from flexspec_mq import topics
from flexspec_mq.daemon.log_throttle import LogThrottle
from flexspec_mq.protocol.effects import Reply
from schemas.messages import Error, ErrorCode

if TYPE_CHECKING:
    from cloud_worker.front.settings import QuotaSettings

_log = logging.getLogger(__name__)

MESSAGE, OPEN, KILOBYTE, ANSWER = 0.1, 0.3, 0.06, 0.15
"""Milliseconds of one core of an AMD EPYC, and something more: of a message that is read, or of one that opens a
session; of each 1,000 bytes of it; of each answer."""
AGREEMENT = 0.35
"""Price of the keys of a session: signatures are checked, and shared secrets computed."""
TURNED_AWAY = 2.0
"""Price of an open beyond the device's own quota of sessions or tokens: it was told when to come again, so if it
opens on and on it is soon not read."""
TELL_EVERY = 1.0
"""Seconds from one answer to a device over its quota to the next."""
_MOST_TOPICS = 8192


class Gate:
    """The quotas of devices in messages.

    Args:
        settings: Quotas of each device.
        worker: name of the worker.
        tell: sends an answer.
        clock: seconds.
        keyed: an open is for keys to be agreed on.

    Attributes:
        refused: messages that were not taken.
        told: answers that said so.
    """

    def __init__(
        self,
        settings: QuotaSettings,
        worker: str,
        tell: Callable[[Reply], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        keyed: bool = False,
    ) -> None:
        self._opens = OPEN + AGREEMENT if keyed else OPEN
        self._accounts = Accounts(settings.device_ms, settings.device_burst_ms)
        self._rate = settings.device_ms
        self._worker = worker
        self._tell = tell
        self._clock = clock
        self._by_topic: dict[str, tuple[Account, float]] = {}
        self._throttle = LogThrottle()
        self.refused = self.told = 0

    @property
    def devices(self) -> int:
        """Devices that are remembered."""
        return len(self._accounts)

    def admit(self, topic: str, size: int) -> bool:
        """Whether a message is to be read; it is paid for if so. Called for every message, so it is quick.

        Args:
            topic: on which it came; others than those of opens and drafts are none of a device, and free.
            size: bytes of its payload.
        """
        now = self._clock()
        found = self._by_topic.get(topic)
        if found is None or not found[0].known:
            found = self._find(topic, now)
            if found is None:
                return True
        account, price = found
        if self._accounts.pays(account, price + KILOBYTE * size / 1000, now):
            return True
        self.refused += 1
        account.refused += 1
        if now >= account.tell_at:
            self._refuse(account, now)
        return False

    def answered(self, device: str, answers: int) -> None:
        """A message of a device was carried out: charge for so many answers."""
        if answers:
            self._accounts.charge(self._accounts.of(device, self._clock()), ANSWER * answers)

    def turned_away(self, device: str) -> None:
        """An open of a device was refused as it holds what one device may hold."""
        self._accounts.charge(self._accounts.of(device, self._clock()), TURNED_AWAY)

    def verified(self, device: str, batches: int) -> None:
        """So many drafts of a device went into a forward: give back what their messages cost."""
        if batches:
            self._accounts.charge(self._accounts.of(device, self._clock()), -MESSAGE * batches)

    def _find(self, topic: str, now: float) -> tuple[Account, float] | None:
        """Who pays for messages on a topic, and how much for each; None if nobody has to."""
        sender = topics.sender_of(topic)
        if sender is None:
            return None
        found = self._accounts.of(sender.edge, now), MESSAGE if sender.version is None else self._opens
        if len(self._by_topic) >= _MOST_TOPICS:
            self._by_topic.clear()
        self._by_topic[topic] = found
        return found

    def _refuse(self, account: Account, now: float) -> None:
        account.tell_at = now + TELL_EVERY
        wait = max(TELL_EVERY, self._accounts.wait(account))
        allowed = f"messages of one device may take {self._rate:g} ms of each second here"
        detail = f"{allowed}; {account.refused} were not read"
        error = Error(0, 0, ErrorCode.BUSY, round(1000 * wait), self._worker, detail)
        self.told += 1
        self._tell(Reply(account.device, error, 0))
        if self._throttle.due(account.device, "quota", now):
            count = account.refused
            _log.warning("edge %s is over its quota of messages: %d were not read", account.device, count)
