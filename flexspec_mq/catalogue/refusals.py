"""Why a signed message of a family is refused."""

from enum import StrEnum

from flexspec_mq.errors import FlexSpecError, RemoteProtocolError


class Reason(StrEnum):
    """Each a rule of its own, most of them against an attack that the specification of TUF names.

    Attributes:
        OVERSIZE: longer than `MAX_PAYLOAD`, so nobody reads it (endless data).
        MALFORMED: no such message, or one that breaks an invariant (arbitrary data).
        FORMAT: made by a newer program.
        FAMILY: another family's.
        SIGNATURE: too few valid signatures of keys that count.
        KEY_SET: signed under a key set that is not here yet, or that counts no more.
        ROLLBACK: older than what was adopted.
        EXPIRED: too old to be taken up (freezing).
        FUTURE: issued later than now (fast-forwarding).
        EQUIVOCATION: signed, as old as what was adopted, and another: who holds a key shows readers different things.
        EMPTY: somebody cleared the topic.
    """

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    FORMAT = "format"
    FAMILY = "family"
    SIGNATURE = "signature"
    KEY_SET = "key_set"
    ROLLBACK = "rollback"
    EXPIRED = "expired"
    FUTURE = "future"
    EQUIVOCATION = "equivocation"
    EMPTY = "empty"


class SignedRefused(RemoteProtocolError):
    """A signed message that cannot be used, and changes nothing.

    Attributes:
        reason: which rule it broke.
    """

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    @property
    def detail(self) -> str:
        """Reason for people, in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RecordError(FlexSpecError):
    """A follower's memory on disk that cannot be used: damaged, or of another family or root key."""
