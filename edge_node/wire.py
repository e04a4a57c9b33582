"""Messages of a node to payloads and back: as the codec makes them, or under the device's keys."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING

import msgspec

from flexspec_mq import topics, waiting
from flexspec_mq.codec import MAX_PAYLOAD_BYTES, Codec
from flexspec_mq.daemon.dated import Dated, ExpiryLog, lapsed
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import LinkRefused, RemoteProtocolError, UsageError, WorkerError
from flexspec_mq.keys.refusals import KeyReason, KeyRefusals, KeysRefused
from flexspec_mq.protocol.effects import Send
from flexspec_mq.protocol.incarnations import Incarnation, incarnation_of
from flexspec_mq.transport.base import Outbound, Subscription
from schemas.messages import MAX_DELIVERED_TOKENS, Delivery, Error, Verdict
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from edge_node.generation import Generation, Resume
    from edge_node.settings import EdgeSettings
    from flexspec_mq.keys.edge import EdgeKeys, FromWorker
    from flexspec_mq.keys.trust import Trust

_MOST_WORKERS = 1024
"""Workers of which it is remembered when they signed their newest status."""
_STATUS_OLD = 3600.0
"""Seconds of age, by the clocks of both machines, from which a status is taken for a copy of an earlier one; one whose
own clock is behind takes none for that."""

_log = logging.getLogger(__name__)


class Wire:
    """Payloads of a node; a node without keys believes whoever may publish.

    Args:
        edge: name of the device on topics.
        keys: keys of the device; None without any.
        publish: sends the answer to a worker that lacks a session's key.
        clock: seconds since the Unix epoch.

    Attributes:
        subscriptions: topics that the keys need, beside that of verdicts.
        refusals: messages that were not believed.
    """

    def __init__(
        self,
        edge: str,
        keys: EdgeKeys | None,
        publish: Callable[[Outbound], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._edge = edge
        self._clock = clock
        self._statuses = ExpiringMap[str, tuple[Incarnation, float]](most=_MOST_WORKERS)
        self._keys = keys
        self._reply = publish
        self._codec = Codec(MAX_DELIVERED_TOKENS, compresses=keys is None)
        self._newest = -inf, ""  # when something was refused that could have been an answer, and why
        self.subscriptions = () if keys is None else (Subscription(topics.statement_topic()),)
        self.refusals = KeyRefusals()

    @property
    def keyed(self) -> bool:
        """Whether messages travel under keys."""
        return self._keys is not None

    @property
    def trust(self) -> Trust | None:
        """Whom the device believes; None without keys."""
        return None if self._keys is None else self._keys.trust

    @property
    def dated(self) -> tuple[Dated, ...]:
        """The deployment's statement, as a document that expires; nothing without keys."""
        return () if self.trust is None else (self.trust.dated,)

    @property
    def lapsed(self) -> str:
        """Why no new text may be begun; empty while the deployment's statement holds, and without keys."""
        return lapsed(self.dated, self._clock())

    async def watch(self) -> None:
        """Log, until cancelled, that the statement expires soon or has expired."""
        dates = ExpiryLog()
        await asyncio.sleep(waiting.RETAINED)  # for a newer one than that of the file
        while True:
            dates.look(self.dated, self._clock())
            await asyncio.sleep(waiting.STATUS)

    def begin(self, session: int, version: str, resume: Resume | None = None) -> None:
        """Begin a session, or go on with one of an earlier incarnation.

        Raises:
            UsageError: the deployment has no opening key for the version.
            WorkerError: its statement has expired.
        """
        if self._keys is not None:
            if why := self.lapsed:
                hint = self._keys.trust.dated.advice
                raise WorkerError(f"{why}, so no worker is believed for a new text", hint=hint)
            private, sent = (None, 0) if resume is None else (resume.private or None, resume.sent)
            self._keys.begin(session, version, private, sent)

    def private(self, session: int) -> bytes:
        """The private key of a session that goes on; empty without keys."""
        return b"" if self._keys is None else self._keys.private(session)

    def ended(self, session: int, now: float) -> None:
        """End a session."""
        if self._keys is not None:
            self._keys.ended(session, now)

    def encode(self, send: Send, now: float) -> bytes:
        """Make the payload of a message.

        Raises:
            UsageError: it is larger than a payload may be.
            LocalProtocolError: a field is out of bounds.
            KeysRefused: there is no key to put it under.
        """
        payload = self._codec.encode(send.message)
        if self._keys is None:
            return payload
        payload = self._keys.wrap(send.message, send.to_worker, payload, now)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"{type(send.message).__name__} takes {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}",
                hint="shorten the prompt",
            )
        return payload

    def decode(
        self, payload: bytes, sessions: Mapping[int, Generation], now: float
    ) -> Verdict | Delivery | Error | None:
        """Read a payload of a worker; None if it only asked for a key, and was answered.

        Raises:
            RemoteProtocolError: it cannot be read, or is no message of a worker.
            KeysRefused: it is not believed.
        """
        if self._keys is None:
            return self._message(payload)
        session = self._keys.wanted(payload)
        if session is not None:
            if (asked := self._keys.poll_for_key(session, now)) is not None:
                worker, poll = asked
                again = self._keys.introduced(session, self._codec.encode(poll))
                self._reply(Outbound(topics.draft_topic(worker, self._edge), again, 0))
            return None
        try:
            sealed = self._keys.unwrap(payload, now)
        except KeysRefused as error:
            raise self._with_its_words(error, payload) from None
        message = self._message(sealed.plain)
        _check_speaker(sealed, message, sessions.get(message.session))
        return message

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on a topic of `subscriptions`; tell whether it is one.

        Raises:
            KeysRefused: it is no statement of the deployment.
            LinkRefused: this device was revoked.
        """
        if self._keys is None or topic != topics.statement_topic():
            return False
        trust = self._keys.trust
        if trust.take(payload):
            _log.info("statement %d of the deployment is in force", trust.statement.serial)
            if trust.revoked:
                raise LinkRefused(
                    "this device was revoked: no worker believes it any more",
                    hint="ask whoever runs the broker; after `flexspec-broker add-device` or `rotate` its new files "
                    "lie in the folder of that broker",
                )
        return True

    def allowed(self, status: WorkerStatus, payload: bytes, now: float) -> WorkerStatus | None:
        """Drop the versions of a worker's status that its credential does not name; None if it has come before.

        Raises:
            KeysRefused: its worker has not signed it, or long ago.
        """
        assert self._keys is not None  # noqa: S101  without keys nobody asks
        worker = status.worker
        serves = self._keys.signer_of(status, payload).serves
        if status.state == "gone":  # signed when its worker connected
            return status
        if (age := self._clock() - status.at) > _STATUS_OLD:
            why = f"the status of worker {worker} is {age:.0f} s old, by the clocks of the two machines"
            raise KeysRefused(KeyReason.REPLAYED, why)
        incarnation, newest = self._statuses.get(worker, 0.0) or (incarnation_of(status), -inf)
        if incarnation == incarnation_of(status) and status.at <= newest:
            if status.at == newest:
                return None
            raise KeysRefused(KeyReason.REPLAYED, f"worker {worker} has told a newer status before")
        self._statuses.put(worker, (incarnation_of(status), status.at), 0.0)
        ready = {version.name for version in status.ready} | {status.version}
        foreign = sorted(version for version in ready if version and not serves(version))
        if foreign:
            why = f"worker {worker} may not serve what it says it does: {', '.join(foreign)}"
            self.refused(topics.worker_status_topic(worker), KeysRefused(KeyReason.CREDENTIAL, why), now)
        versions = tuple(version for version in status.versions if serves(version.name))
        alone = bool(versions) == bool(status.versions) and serves(status.version)
        return msgspec.structs.replace(status, version=status.version if alone else "", versions=versions)

    def refused(self, topic: str, error: KeysRefused, now: float) -> None:
        """Count and log something that came on a topic and is not believed."""
        self.refusals.refused(f"on {topic}", error, now)
        if topics.worker_of_status(topic) is None:
            self._newest = now, error.message

    def explained(self, error: WorkerError, since: float) -> WorkerError:
        """Add what was not believed meanwhile, if anything, to the error that nobody answered."""
        at, what = self._newest
        if at < since:
            return error
        hint = f"answers came and were not believed, the last: {what}; --keys of both sides must be of one deployment"
        return type(error)(error.message, hint=hint)

    def _message(self, plain: bytes) -> Verdict | Delivery | Error:
        try:
            message = self._codec.decode(plain)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"a worker sent what cannot be read: {error.message}") from error
        if not isinstance(message, Verdict | Delivery | Error):
            raise RemoteProtocolError(f"a worker sent a {type(message).__name__}, which only edges send")
        return message

    def _with_its_words(self, error: KeysRefused, payload: bytes) -> KeysRefused:
        """Add what an error without a key says: it is not believed, but may tell people why nothing better comes."""
        if error.reason is not KeyReason.UNKEYED:
            return error
        try:
            message = self._codec.decode(payload)
        except RemoteProtocolError:
            return error
        if not isinstance(message, Error):
            return error
        says = f"{error.message}, which says in the name of {message.worker}: {message.detail!r}"
        return KeysRefused(KeyReason.UNKEYED, says)


def _check_speaker(
    sealed: FromWorker, message: Verdict | Delivery | Error, generation: Generation | None
) -> None:
    """Refuse a message that is not of the session and worker whose key it came under.

    Raises:
        KeysRefused: it is not.
    """
    if message.session != sealed.session:
        why = f"worker {sealed.worker} speaks of session {message.session} under another's key"
        raise KeysRefused(KeyReason.FORGED, why)
    if message.worker not in {None, sealed.worker}:
        raise KeysRefused(KeyReason.FORGED, f"worker {sealed.worker} speaks in the name of {message.worker}")
    if generation is not None and not generation.machine.is_of(sealed.worker, message):
        raise KeysRefused(KeyReason.FORGED, f"worker {sealed.worker} speaks in the name of another")


def wire_of(settings: EdgeSettings, publish: Callable[[Outbound], None] = lambda _: None) -> Wire:
    """The wire with the keys that the settings name; what they need is imported only where there are some.

    Raises:
        UsageError: the file cannot be used.
    """
    if settings.keys is None:
        return Wire(settings.edge, None, publish)
    from flexspec_mq.keys.documents import KeyRole
    from flexspec_mq.keys.edge import EdgeKeys
    from flexspec_mq.keys.identity_file import read_identity

    identity = read_identity(settings.keys, KeyRole.EDGE, settings.edge)
    return Wire(settings.edge, EdgeKeys(identity), publish)
