"""Whom a client believes now: identities of its own deployment that the newest statement does not revoke."""

from collections.abc import Callable
from math import inf
from typing import Final

from flexspec_mq.daemon.dated import Dated
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.keys.documents import Credential, KeyRole, Use, read_credential, read_statement
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.statement import Statement

_REMEMBERED: Final = 4096
"""Credentials whose signature need not be looked at again. The one that was first seen longest ago goes first."""
_RENEW: Final = (
    "`flexspec-broker renew` signs a new one; where that was done, somebody on the way withholds it"
)


class Trust:
    """A client's knowledge of its deployment.

    Attributes:
        statement: the newest one.
        on_change: called after a newer one was taken.
    """

    def __init__(self, identity: KeyIdentity) -> None:
        self._deployment = identity.deployment
        self._signed = identity.signed_statement
        self._own = identity.credential.serial
        self._seen = ExpiringMap[tuple[bytes, Use], Credential](most=_REMEMBERED)
        self.statement: Statement = identity.statement
        self.on_change: Callable[[], None] = lambda: None

    @property
    def dated(self) -> Dated:
        """The newest statement, as a document that expires."""
        return Dated("the deployment's statement", self.statement.expires, _RENEW)

    @property
    def revoked(self) -> bool:
        """Whether this client itself was revoked."""
        return self._own in self.statement.revoked

    def take(self, payload: bytes) -> bool:
        """Take a statement as it was published; returns whether it is a newer one.

        Raises:
            KeysRefused: it is none of the deployment, or older than the one that is held, or as old and another.
        """
        if payload == self._signed:
            return False
        statement = read_statement(payload, self._deployment)
        if statement.serial <= self.statement.serial:
            raise KeysRefused(
                KeyReason.STATEMENT,
                f"statement {statement.serial} came, and {self.statement.serial} is known",
                hint="whoever runs the broker shows an old one; or the deployment's folder was restored from a copy",
            )
        self._signed, self.statement = payload, statement
        self.on_change()
        return True

    def believed(
        self, data: bytes, role: KeyRole, use: Use = Use.SESSIONS, *, revoked_too: bool = False
    ) -> Credential:
        """The credential that somebody shows.

        Raises:
            KeysRefused: it is none of this deployment, role or use, or revoked.
        """
        credential = self._seen.get((data, use), -inf)
        if credential is None:
            credential = read_credential(data, self._deployment, use)
            self._seen.put((data, use), credential, 0.0)
        if credential.role is not role:
            raise KeysRefused(
                KeyReason.CREDENTIAL, f"the credential of the {credential.role} {credential.name}"
            )
        if credential.serial in self.statement.revoked and not revoked_too:
            raise KeysRefused(KeyReason.REVOKED, f"the credential of {credential.name} was revoked")
        return credential
