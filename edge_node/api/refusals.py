"""Who was refused, and why: counted by reason, and said in the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from flexspec_mq.daemon.expiring import ExpiringMap

if TYPE_CHECKING:
    from prometheus_client import Counter

REASONS = (
    "invalid_api_key",
    "wrong_host",
    "wrong_origin",
    "overloaded",
    "body_timeout",
    "body_too_long",
    "head_timeout",
    "too_many_connections",
)
"""Why a client is kept out, or cut short; all else that is wrong with a request is its author's business."""
_MOST_TOLD, _TELL_EVERY = 256, 10.0
"""Clients and reasons that are remembered as told, and seconds from one line about them to the next: nobody fills the
log of others."""

_log = logging.getLogger(__name__)


class ClientRefusals:
    """Counts and tells.

    Args:
        counter: counter of refusals, by reason.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._told = ExpiringMap[tuple[str, str], bool](most=_MOST_TOLD, life=_TELL_EVERY)
        for reason in REASONS:
            counter.labels(reason)

    def note(self, client: str, reason: str | None, why: str) -> None:
        """Somebody was refused.

        Args:
            client: address.
            reason: code of the error; others than `REASONS` are not counted here.
            why: words for people.
        """
        if reason not in REASONS:
            return
        self._counter.labels(reason).inc()
        key, now = (client, reason), time.monotonic()
        if self._told.get(key, now) is None:
            self._told.put(key, True, now)
            _log.warning("client %s was refused, %s: %s", client, reason, why)
