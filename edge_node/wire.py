"""What stands between a node's codec and its link where it has keys, and what it does not believe."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

from flexspec_mq import topics
from flexspec_mq.codec import MAX_PAYLOAD_BYTES, Codec
from flexspec_mq.errors import RemoteProtocolError, UsageError, WorkerError
from flexspec_mq.keys.refusals import KeysRefused, Reason, Refusals
from flexspec_mq.transport.base import Subscription
from schemas.messages import Error, Verdict

if TYPE_CHECKING:
    from edge_node.settings import EdgeSettings
    from flexspec_mq.keys.edge import EdgeKeys, FromWorker
    from flexspec_mq.protocol.edge.session import EdgeSession
    from flexspec_mq.protocol.effects import Send
    from schemas.status import WorkerStatus


class KeyedWire:
    """Payloads of a node that has keys.

    Args:
        keys: of the device.

    Attributes:
        keys: of the device.
        refusals: what was not believed.
        subscription: what must be heard for the keys.
    """

    subscription = Subscription(topics.statement_topic())

    def __init__(self, keys: EdgeKeys) -> None:
        self.keys = keys
        self.refusals = Refusals()
        self._codec = Codec()
        self._newest = -inf, ""  # when something was refused that could have been an answer, and why

    def wrap(self, send: Send, plain: bytes, now: float) -> bytes:
        """The payload that travels.

        Args:
            send: what is sent.
            plain: its message, as the codec made it.
            now: seconds.

        Raises:
            UsageError: it is larger than a payload may be.
            KeysRefused: there is no key to put it under.
        """
        if not send.message.session:
            return plain  # it says nothing
        payload = self.keys.wrap(send.message, send.to_worker, plain, now)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"{type(send.message).__name__} takes {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}",
                hint="shorten the prompt",
            )
        return payload

    def unwrap(self, payload: bytes, now: float) -> FromWorker:
        """What a worker made of a payload that came.

        Raises:
            KeysRefused: it is not believed.
        """
        try:
            return self.keys.unwrap(payload, now)
        except KeysRefused as error:
            raise self._told(error, payload) from None

    def poll_for_key(self, session: int, now: float) -> tuple[str, bytes] | None:
        """The answer to a worker that says that it lacks a session's key, and its name; None if there is none."""
        asked = self.keys.poll_for_key(session, now)
        if asked is None:
            return None
        worker, poll = asked
        return worker, self.keys.introduced(session, self._codec.encode(poll))

    def allowed(self, status: WorkerStatus, now: float) -> WorkerStatus:
        """A worker's status without the versions that its credential does not name.

        Raises:
            KeysRefused: it shows no credential of this worker.
        """
        worker = status.worker
        serves = self.keys.credential_of(worker, status.credential).serves
        said = {one.name for one in status.versions if one.state == "ready"} | {status.version}
        foreign = sorted(version for version in said if version and not serves(version))
        if foreign:
            why = f"worker {worker} may not serve what it says it does: {', '.join(foreign)}"
            self.refused(topics.worker_status_topic(worker), KeysRefused(Reason.CREDENTIAL, why), now)
        versions = tuple(one for one in status.versions if serves(one.name))
        alone = bool(versions) == bool(status.versions) and serves(status.version)
        return msgspec.structs.replace(status, version=status.version if alone else "", versions=versions)

    def refused(self, topic: str, error: KeysRefused, now: float) -> None:
        """Count and log something that came on a topic and is not believed."""
        self.refusals.refused(f"on {topic}", error, now)
        if topics.worker_of_status(topic) is None:
            self._newest = now, error.message

    def explained(self, error: WorkerError, since: float) -> WorkerError:
        """That nobody answered, with what was not believed meanwhile, if anything."""
        at, what = self._newest
        if at < since:
            return error
        hint = f"answers came and were not believed, the last: {what}; --keys of both sides must be of one deployment"
        return type(error)(error.message, hint=hint)

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


def check_speaker(made: FromWorker, message: Verdict | Error, machine: EdgeSession | None) -> None:
    """Whether a message is of the session and worker whose key it came under.

    Args:
        made: by whom and for which session, as the key says.
        message: that came.
        machine: of that session; None if it is not ours any more.

    Raises:
        KeysRefused: it is not.
    """
    if message.session != made.session:
        why = f"worker {made.worker} speaks of session {message.session} under another's key"
        raise KeysRefused(Reason.FORGED, why)
    if message.worker not in {None, made.worker}:
        raise KeysRefused(Reason.FORGED, f"worker {made.worker} speaks in the name of {message.worker}")
    if machine is not None and not machine.is_of(made.worker, message):
        raise KeysRefused(Reason.FORGED, f"worker {made.worker} speaks in the name of another")


def keyed_wire(settings: EdgeSettings) -> KeyedWire | None:
    """With the keys that the settings name; what they need is imported only where there are some.

    Raises:
        UsageError: the file cannot be used.
    """
    if settings.keys is None:
        return None
    from flexspec_mq.keys.credential import KeyRole
    from flexspec_mq.keys.edge import EdgeKeys
    from flexspec_mq.keys.identity_file import read_identity

    identity = read_identity(settings.keys, KeyRole.EDGE, settings.edge)
    return KeyedWire(EdgeKeys(identity, seal=settings.seal))
