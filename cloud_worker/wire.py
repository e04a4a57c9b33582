"""A worker's messages to payloads and back, under keys where it has some, and what it does not believe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.dated import Dated
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.refusals import KeyReason, KeyRefusals, KeysRefused
from flexspec_mq.transport.base import Subscription
from schemas.messages import NO_SESSION, Close, Delivery, Draft, Error, ErrorCode, Open, Poll, Verdict
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.keys.worker import WorkerKeys


_TOLD_EDGES, _TOLD_EVERY = 1024, 1.0
"""Edges that are remembered as told what cannot be read, or that they need keys, and seconds from one such answer to
the next: two daemons must not answer each other's noise for ever. On overflow the one told longest ago is forgotten."""


class WorkerWire:
    """Layer between a worker's sessions and its link.

    Attributes:
        keys: Keys of the worker; None without.
        refusals: Count of messages that were not believed.

    Raises:
        UsageError: the file with the keys cannot be used.
    """

    def __init__(self, settings: WorkerSettings, most_tokens: int) -> None:
        self._name = settings.worker
        self.refusals = KeyRefusals()
        self._told = ExpiringMap[str, bool](most=_TOLD_EDGES, ttl=_TOLD_EVERY)
        self.keys = keys_of(settings)
        self._codec = Codec(most_tokens, compresses=self.keys is None)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Topics that must be heard for the keys."""
        return () if self.keys is None else (Subscription(topics.statement_topic()),)

    def decode(
        self, edge: str, version: str | None, payload: bytes, now: float
    ) -> tuple[Open | Draft | Poll | Close, str | None]:
        """The message in a payload, and the version that it is for; None where nobody says that.

        Raises:
            KeysRefused: it is not believed.
            TooManyTokens: it has more than the worker can use.
            RemoteProtocolError: it cannot be read, or is none that edges send.
        """
        if self.keys is None:
            return self._read(payload), version
        plain, session = self.keys.unwrap(edge, version, payload, now)
        message = self._read(plain)
        if message.session != session:
            raise KeysRefused(KeyReason.FORGED, f"it speaks of session {message.session} under another's key")
        return message, version or self.keys.version_of(edge, session, now)

    @property
    def dated(self) -> tuple[Dated, ...]:
        """The deployment's statement, as a document that expires; nothing without keys."""
        return () if self.keys is None else (self.keys.trust.dated,)

    def status(self, status: WorkerStatus) -> bytes:
        """The payload of a status of this worker, signed where it has keys."""
        if self.keys is None:
            return self._codec.encode_status(status)
        status = msgspec.structs.replace(status, credential=self.keys.status_credential)
        return self.keys.signed_status(self._codec.encode_status(status))

    def keep(self, edge: str, session: int, now: float) -> None:
        """Keep the key of a session whose answer is promised, until `forget`."""
        if self.keys is not None:
            self.keys.keep(edge, session, now)

    def forget(self, edge: str, session: int) -> None:
        """The session is not here any more."""
        if self.keys is not None:
            self.keys.forget(edge, session)

    def encode(self, edge: str, message: Verdict | Error | Delivery, now: float) -> bytes | None:
        """The payload of an answer; None if the key of its session has gone, so that nobody would believe it.

        An error that is of no session, or of one without a key, goes out as it is: it is for devices without keys,
        and for people.
        """
        plain = self._codec.encode(message)
        if self.keys is None or not message.session:
            return plain
        try:
            introduced = isinstance(message, Delivery)
            return self.keys.wrap(edge, message.session, plain, now, introduced=introduced)
        except KeysRefused as error:
            if isinstance(message, Error):
                return plain
            self.refusals.refused(f"an answer for edge {edge}", error, now)
            return None

    def refused(self, edge: str, payload: bytes, error: KeysRefused, now: float) -> bytes | None:
        """Count what is not believed; returns what to answer, if anything.

        A device that has keys never believes that answer. It asks for the key that is missing, or tells a device
        without keys why its open is of no use.
        """
        if error.reason is KeyReason.NO_KEY and self.keys is not None:
            return self.keys.wanted(edge, payload, now)
        message = self._unkeyed(payload) if error.reason is KeyReason.UNKEYED else None
        if message == NO_SESSION:
            return None
        self.refusals.refused(f"edge {edge}", error, now)
        if not isinstance(message, Open) or not self.may_tell(edge, now):
            return None
        why = f"{error.message}: {error.hint}"
        return self._codec.encode(
            Error(message.session, message.attempt, ErrorCode.PROTOCOL, 0, self._name, why)
        )

    def may_tell(self, edge: str, now: float) -> bool:
        """Whether an edge may be told now that something of it is of no use; it is taken to be told then."""
        if self._told.get(edge, now):
            return False
        self._told.put(edge, True, now)
        return True

    def _read(self, payload: bytes) -> Open | Draft | Poll | Close:
        message = self._codec.decode(payload)
        if not isinstance(message, Open | Draft | Poll | Close):
            raise RemoteProtocolError(f"a {type(message).__name__} comes from workers only")
        return message

    def _unkeyed(self, payload: bytes) -> Open | Draft | Poll | Close | None:
        try:
            return self._read(payload)
        except RemoteProtocolError:
            return None


def keys_of(settings: WorkerSettings) -> WorkerKeys | None:
    """Keys that the settings name; their library is imported only where there are some.

    Raises:
        UsageError: the file cannot be used.
    """
    if settings.keys is None:
        return None
    from flexspec_mq.keys.documents import KeyRole
    from flexspec_mq.keys.identity_file import read_identity
    from flexspec_mq.keys.worker import WorkerKeys

    identity = read_identity(settings.keys, KeyRole.WORKER, settings.worker)
    return WorkerKeys(identity, lease=settings.lease, capacity=settings.capacity)
