"""Signed documents that hold until a date, as TUF's root does: a newer one cannot be withheld for longer than that.

Dates are compared with this machine's clock. A clock that is behind sees nothing expire: whoever can set it back could
set it into the time in which the document held.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from flexspec_mq.daemon.expiring import LogThrottle

DAY: Final = 86_400
LIFETIME: Final = 180 * DAY
"""Seconds for which a document holds that is signed now."""
_SOON: Final = 30 * DAY
"""Seconds before the end from which it is told."""

_log = logging.getLogger(__name__)


class Dated(Protocol):
    """A document with its last second, since the Unix epoch."""

    @property
    def expires(self) -> int:
        """The second from which it holds no more."""
        ...


def last_day(document: Dated) -> str:
    """The date of the end, for people."""
    return time.strftime("%Y-%m-%d", time.gmtime(document.expires))


def over(name: str, document: Dated, now: float) -> str:
    """Say that a document holds no more; empty as long as it does.

    Args:
        name: the document, for people.
        document: the document.
        now: seconds since the Unix epoch.
    """
    if now < document.expires:
        return ""
    today = time.strftime("%Y-%m-%d", time.gmtime(now))
    return f"{name} expired on {last_day(document)}, and it is {today} by this machine's clock"


def warning(name: str, document: Dated, now: float) -> str:
    """Say that a document holds no more, or not for much longer; empty of one that holds for 30 days."""
    left = document.expires - now
    if left > _SOON:
        return ""
    soon = f"{name} expires on {last_day(document)}, in {max(left, 0) / DAY:.0f} days"
    return over(name, document, now) or soon


def wants_renewal(document: Dated, now: float) -> bool:
    """Whether a command that signs anyway should sign it anew: it was signed more than a day ago."""
    return document.expires < now + LIFETIME - DAY


class ExpiryLog:
    """Logs once a day that documents expire soon, or have expired."""

    def __init__(self) -> None:
        self._throttle = LogThrottle(every=DAY)

    def look(self, name: str, document: Dated, now: float, advice: str) -> None:
        """Look at a document, and log what is to be told of it with what to do."""
        words, level = warning(name, document, now), logging.WARNING
        if over(name, document, now):
            level = logging.ERROR
        if words and self._throttle.due(name, str(level), now):
            _log.log(level, "%s: %s", words, advice)
