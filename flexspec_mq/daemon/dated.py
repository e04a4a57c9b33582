"""Signed documents that hold until a date, as TUF's root does: a newer one cannot be withheld for longer than that.

Dates are compared with this machine's clock. A clock that is behind sees nothing expire: whoever can set it back could
set it into the time in which the document held.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from flexspec_mq.daemon.expiring import LogThrottle

DAY: Final = 86_400
LIFETIME: Final = 180 * DAY
"""Seconds for which a document holds that is signed now."""
_SOON: Final = 30 * DAY
"""Seconds before the end from which it is told."""

_log = logging.getLogger(__name__)


class Dated(NamedTuple):
    """A document that holds until a date.

    Attributes:
        name: Name for people.
        expires: Second since the Unix epoch from which it holds no more.
        advice: Remedy once it has expired.
    """

    name: str
    expires: int
    advice: str

    @property
    def last_day(self) -> str:
        """The date of the end."""
        return day(self.expires)

    def over(self, now: float) -> str:
        """Say that it holds no more, `now` in seconds since the Unix epoch; empty as long as it does."""
        if now < self.expires:
            return ""
        return f"{self.name} expired on {self.last_day}, and it is {day(now)} by this machine's clock"

    def warning(self, now: float) -> str:
        """Say that it holds no more, or not for much longer; empty of one that holds for 30 days."""
        left = self.expires - now
        if left > _SOON:
            return ""
        return self.over(now) or f"{self.name} expires on {self.last_day}, in {left / DAY:.0f} days"


def day(second: float) -> str:
    """The date of a second since the Unix epoch, in UTC."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"


def lapsed(documents: Iterable[Dated], now: float) -> str:
    """Say which document holds no more; empty as long as all do."""
    return next(filter(None, (document.over(now) for document in documents)), "")


class ExpiryLog:
    """Logs once a day that documents expire soon, or have expired."""

    def __init__(self) -> None:
        self._throttle = LogThrottle(every=DAY)

    def look(self, documents: Iterable[Dated], now: float) -> None:
        """Look at documents, and log what is to be told of them with what to do."""
        for document in documents:
            level = logging.ERROR if document.over(now) else logging.WARNING
            words = document.warning(now)
            if words and self._throttle.due(document.name, str(level), now):
                _log.log(level, "%s: %s", words, document.advice)
