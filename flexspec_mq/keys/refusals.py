"""Why something that came from the network is not believed."""

import logging
from collections import Counter
from enum import StrEnum

from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.errors import RemoteProtocolError

_log = logging.getLogger(__name__)


class KeyReason(StrEnum):
    """Words for logs and metrics."""

    UNKEYED = "unkeyed"
    """It has neither tag nor seal."""
    MALFORMED = "malformed"
    """It cannot be read: cut off, or never whole."""
    FORGED = "forged"
    """Its tag is none that the named sender makes for this content, session and direction."""
    REPLAYED = "replayed"
    """It was taken before, or is too old to tell."""
    UNASKED = "unasked"
    """A worker of its session made it, and has sent more than it was asked for."""
    NO_KEY = "no_key"
    """It is of a session whose key is not held here."""
    OPENING = "opening"
    """It is for an opening key that this worker does not hold."""
    CREDENTIAL = "credential"
    """The credential is none of this deployment, or of another role, name or version."""
    REVOKED = "revoked"
    """The credential was revoked."""
    STATEMENT = "statement"
    """The statement is none of this deployment, or older than the one that is held."""


class KeysRefused(RemoteProtocolError):
    """A message, credential or statement that is not believed, for a `reason`."""

    def __init__(self, reason: KeyReason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class KeyRefusals:
    """Counts what was not believed, and logs the first of each kind, then at most one in ten seconds.

    Attributes:
        counts: refusals by reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[KeyReason] = Counter()
        self._throttle = LogThrottle(every=10.0)

    def refused(self, who: str, error: KeysRefused, now: float) -> None:
        """Note that something was not believed that came from `who`, as far as that is known."""
        reason = error.reason
        self.counts[reason] += 1
        if self._throttle.due("", reason, now):
            _log.warning("refused, %s: %s: %s (%d so far)", reason, who, error.message, self.counts[reason])
