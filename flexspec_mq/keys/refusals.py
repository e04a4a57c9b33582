"""Why something that came from the network is not believed."""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from math import inf

from flexspec_mq.errors import RemoteProtocolError

_log = logging.getLogger(__name__)


class Reason(StrEnum):
    """One word for logs and metrics."""

    UNKEYED = "unkeyed"
    """It has neither tag nor seal."""
    MALFORMED = "malformed"
    """It cannot be read: cut off, or never whole."""
    FORGED = "forged"
    """Its tag is none that the named sender makes for this content, session and direction."""
    REPLAYED = "replayed"
    """It was taken before, or is too old to tell."""
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
    """Something that is not believed.

    Attributes:
        reason: as counted.
    """

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class Refusals:
    """Counts what was not believed, and has the first of each kind logged, then at most one in `every` seconds.

    Attributes:
        counts: by reason.
    """

    def __init__(self, every: float = 10.0) -> None:
        self._every = every
        self._quiet_until: dict[Reason, float] = {}
        self.counts: Counter[Reason] = Counter()

    def refused(self, who: str, error: KeysRefused, now: float) -> None:
        """Something was not believed.

        Args:
            who: from whom it came, as far as that is known.
            error: why.
            now: seconds.
        """
        reason = error.reason
        self.counts[reason] += 1
        if now >= self._quiet_until.get(reason, -inf):
            self._quiet_until[reason] = now + self._every
            _log.warning("refused, %s: %s: %s (%d so far)", reason, who, error.message, self.counts[reason])
