"""A node's messages to payloads and back, under keys where it has some, and what it does not believe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq import topics
from flexspec_mq.codec import MAX_PAYLOAD_BYTES, Codec
from flexspec_mq.errors import RemoteProtocolError, UsageError, WorkerError
from flexspec_mq.keys.refusals import KeysRefused, Reason, Refusals
from flexspec_mq.transport.base import Subscription
from schemas.messages import MAX_VERDICT_TOKENS, Error, Verdict

if TYPE_CHECKING:
    from edge_node.settings import EdgeSettings
    from flexspec_mq.keys.edge import EdgeKeys
    from flexspec_mq.protocol.effects import Send


class EdgeWire:
    """What stands between a node's sessions and its link.

    Args:
        settings: of the device.

    Attributes:
        keys: of the device; None without.
        refusals: what was not believed.

    Raises:
        UsageError: the file with the keys cannot be used.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self._codec = Codec(MAX_VERDICT_TOKENS)
        self.refusals = Refusals()
        self.keys = keys_of(settings)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What must be heard for the keys."""
        return () if self.keys is None else (Subscription(topics.statement_topic()),)

    def begin(self, session: int, version: str) -> None:
        """A session begins.

        Raises:
            UsageError: the deployment has no opening key for the version.
        """
        if self.keys is not None:
            self.keys.begin(session, version)

    def ended(self, session: int, now: float) -> None:
        """A session is over."""
        if self.keys is not None:
            self.keys.ended(session, now)

    def encode(self, send: Send, now: float) -> bytes:
        """The payload of a message.

        Raises:
            UsageError: it is larger than a payload may be.
            LocalProtocolError: a field is out of bounds.
            KeysRefused: there is no key to put it under.
        """
        message = send.message
        plain = self._codec.encode(message)
        if self.keys is None or not message.session:
            return plain
        payload = self.keys.wrap(message, send.to_worker, plain, now)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"{type(message).__name__} takes {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}",
                hint="shorten the prompt",
            )
        return payload

    def explained(self, error: WorkerError, since: float) -> WorkerError:
        """That nobody answered, with what was not believed meanwhile, if anything."""
        at, what = self.refusals.newest
        if at < since:
            return error
        hint = f"answers came and were not believed, the last: {what}; --keys of both sides must be of one deployment"
        return type(error)(error.message, hint=hint)

    def again(self, payload: bytes, now: float) -> tuple[str, bytes] | None:
        """If a worker wants the key of a session: its name, and what to send there."""
        return None if self.keys is None else self.keys.again(payload, now)

    def decode(self, payload: bytes, now: float) -> tuple[Verdict | Error, str | None]:
        """The message in a payload, and the worker that made it, where a key says so.

        Raises:
            KeysRefused: it is not believed.
            RemoteProtocolError: it cannot be read.
        """
        if self.keys is None:
            return self._read(payload), None
        try:
            made = self.keys.unwrap(payload, now)
        except KeysRefused as error:
            raise self._told(error, payload) from None
        message, worker = self._read(made.plain), made.worker
        if message.session != made.session:
            raise KeysRefused(
                Reason.FORGED, f"worker {worker} speaks of session {message.session} under another's key"
            )
        if message.worker not in {None, worker}:
            raise KeysRefused(Reason.FORGED, f"worker {worker} speaks in the name of {message.worker}")
        return message, worker

    def _read(self, payload: bytes) -> Verdict | Error:
        try:
            message = self._codec.decode(payload)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"a worker sent what cannot be read: {error.message}") from error
        if not isinstance(message, Verdict | Error):
            raise RemoteProtocolError(f"a worker sent a {type(message).__name__}, which only edges send")
        return message

    def _told(self, error: KeysRefused, payload: bytes) -> KeysRefused:
        """An error without a key is not believed, but may tell people why nothing better comes."""
        if error.reason is not Reason.UNKEYED:
            return error
        try:
            message = self._codec.decode(payload)
        except RemoteProtocolError:
            return error
        if not isinstance(message, Error):
            return error
        says = f"{error.message}, which says in the name of {message.worker}: {message.detail!r}"
        return KeysRefused(Reason.UNKEYED, says)


def keys_of(settings: EdgeSettings) -> EdgeKeys | None:
    """Those that the settings name; what they need is imported only where there are some.

    Raises:
        UsageError: the file cannot be used.
    """
    if settings.keys is None:
        return None
    from flexspec_mq.keys.credential import KeyRole
    from flexspec_mq.keys.edge import EdgeKeys
    from flexspec_mq.keys.identity_file import read_identity

    return EdgeKeys(read_identity(settings.keys, KeyRole.EDGE, settings.edge), seal=settings.seal)
