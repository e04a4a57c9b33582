"""Why something that came from the network is not believed."""

from __future__ import annotations

from enum import StrEnum

from flexspec_mq.errors import RemoteProtocolError


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
