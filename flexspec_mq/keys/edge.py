"""Keys of a device: of its sessions with each worker that answered. Bytes in, bytes out; no I/O, no clock."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flexspec_mq import waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import UsageError
from flexspec_mq.keys.agreement import SessionContext, share
from flexspec_mq.keys.documents import Credential, KeyRole, Use, is_signed
from flexspec_mq.keys.envelope import (
    Envelope,
    Introduction,
    ReplayWindow,
    Sealer,
    enveloped,
    is_keyed,
    read_envelope,
    wanted_session,
)
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.trust import Trust
from schemas.messages import MAX_ANSWERS, Close, Draft, Open, Poll
from schemas.status import WorkerStatus

_AFTER_THE_END: Final = 60.0
"""Seconds that the keys of a session are kept when it is over, so that late workers can be told."""
_MOST_ENDED: Final = 256
_BATCHES: Final = (Draft, Poll)

_MOST_WORKERS, _MOST_INCARNATIONS = 8, 2
"""Workers of a session whose keys are kept, and incarnations of each; the oldest goes first."""
_MOST_OVER: Final = 256
"""Earlier incarnations that are remembered as such."""


@dataclass(slots=True)
class Peer:
    """A worker of a session, in one of its incarnations.

    Attributes:
        introduces: whether its newest message introduced it: it may not know the key any more.
    """

    name: str
    serial: bytes
    up: Sealer
    down: Sealer
    introduces: bool = False
    replays: ReplayWindow = field(default_factory=ReplayWindow)


@dataclass(slots=True)
class Keyring:
    """All keys of one session.

    Attributes:
        sent: messages so far, under whichever key.
        newest: draft or poll, and the worker that it went to; None once that worker was polled for want of the key.
        asked_at: when a worker may be polled so again.
        revoked: workers that were.
        over: ephemeral keys of workers' earlier incarnations, whose copies must not take the newest one's place.
    """

    session: SessionContext
    private: X25519PrivateKey
    opening: Sealer
    sent: int = 0
    peers: OrderedDict[bytes, Peer] = field(default_factory=OrderedDict)
    newest: tuple[str, Draft | Poll] | None = None
    asked_at: float = 0.0
    revoked: set[str] = field(default_factory=set)
    over: ExpiringMap[bytes, bool] = field(default_factory=lambda: ExpiringMap(most=_MOST_OVER))

    def with_worker(self, name: str) -> Peer | None:
        """A worker in its newest incarnation; None if it has no key here."""
        for peer in reversed(self.peers.values()):
            if peer.name == name:
                return peer
        return None

    def add(self, ephemeral: bytes, peer: Peer) -> None:
        """Keep one more, and no more of a worker than its newest incarnations: others' keys are not its to push out."""
        incarnations = [key for key, known in self.peers.items() if known.name == peer.name]
        for key in incarnations[: 1 - _MOST_INCARNATIONS]:
            del self.peers[key]
            self.over.put(key, True, 0.0)
        if not incarnations and len({known.name for known in self.peers.values()}) >= _MOST_WORKERS:
            oldest = next(iter(self.peers.values())).name
            self.peers = OrderedDict((key, peer) for key, peer in self.peers.items() if peer.name != oldest)
        self.peers[ephemeral] = peer


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A message that a worker of the session made.

    Attributes:
        plain: payload for the codec.
        session: session that its message must be of.
        worker: name of the worker; the message must name no other.
    """

    plain: bytes
    session: int
    worker: str


class EdgeKeys:
    """The keys of a device.

    Args:
        identity: identity of the device.

    Attributes:
        trust: decides whom it believes.
    """

    def __init__(self, identity: KeyIdentity) -> None:
        self._identity = identity
        self._name = identity.credential.name
        self._private = X25519PrivateKey.from_private_bytes(identity.private)
        self._rings: dict[int, Keyring] = {}
        self._ended = ExpiringMap[int, Keyring](most=_MOST_ENDED, ttl=_AFTER_THE_END)
        self.trust = Trust(identity)
        self.trust.on_change = self._take_up

    def begin(self, session: int, version: str, private: bytes | None = None, sent: int = 0) -> None:
        """Draw the keys of a session that begins, by its number and target version.

        Args:
            session: number of the session.
            version: target version.
            private: private key of the session, as `private` gave it in an earlier incarnation; None draws one.
            sent: messages that it has sent then at most: a number under which two were sealed would give both away.

        Raises:
            UsageError: the deployment has no opening key for the version.
        """
        key = X25519PrivateKey.generate() if private is None else X25519PrivateKey.from_private_bytes(private)
        self._rings[session] = self._begun(session, version, key, sent)

    def private(self, session: int) -> bytes:
        """The private key of a session, with which all that is said in it can be read; empty once it is over."""
        ring = self._rings.get(session)
        return b"" if ring is None else ring.private.private_bytes_raw()

    def wrap(
        self, message: Open | Draft | Poll | Close, worker: str | None, plain: bytes, now: float
    ) -> bytes:
        """Put a message under the session's key with a worker; without one, under the opening key of the version.

        The latter is for opens to whoever may answer, and for closes, which hold nothing of the text, also where the
        worker may have forgotten the key. Anybody who comes to know a worker's file may read these for ever, so nothing
        that was generated goes there.

        Args:
            message: the message.
            worker: worker that it goes to; None is any of the version.
            plain: payload of the codec that holds it.
            now: seconds.

        Raises:
            KeysRefused: the session never began, or ended long ago; or the worker was revoked, or its key is not known
                and the message holds what was generated.
        """
        ring = self._ring(message.session, now)
        if ring is None:
            raise KeysRefused(KeyReason.NO_KEY, f"session {message.session} is none of ours")
        peer = None if worker is None else ring.with_worker(worker)
        if peer is None and worker in ring.revoked:
            raise KeysRefused(KeyReason.REVOKED, f"worker {worker} was revoked")
        batch = message if isinstance(message, _BATCHES) else None
        if peer is None or (peer.introduces and isinstance(message, Close)):
            if batch or (isinstance(message, Open) and (message.committed or message.draft)):
                why = f"session {message.session} has no key with {f'worker {worker}' if worker else 'any worker'}"
                raise KeysRefused(KeyReason.NO_KEY, why)
            return self._introduced(ring, plain)
        if batch is not None:
            ring.newest = peer.name, batch
        return self._enveloped(ring, peer.up, plain)

    def ended(self, session: int, now: float) -> None:
        """Note that a session is over. Its keys are kept a while, for workers that still hold it."""
        ring = self._rings.pop(session, None)
        if ring is not None:
            ring.newest = None
            self._ended.expire(now)
            self._ended.put(session, ring, now)

    @staticmethod
    def wanted(payload: bytes) -> int | None:
        """The session whose key a worker says that it lacks; None for any other payload."""
        return wanted_session(payload)

    def poll_for_key(self, session: int, now: float) -> tuple[str, Poll] | None:
        """The answer to a worker that says that it lacks the key of a session. Nothing vouches for that.

        It is for `introduced`. Others may come to know the opening key, so the poll holds nothing of the text: no
        token, and no digest, by which tokens could be guessed. A worker that has the session drops it as stale.

        Returns:
            The worker that the newest draft or poll went to, and a poll in place of that; None if nothing was sent
            since the last such poll, or that was a moment ago.
        """
        ring = self._rings.get(session)
        if ring is None or ring.newest is None or now < ring.asked_at:
            return None
        ring.asked_at = now + waiting.RETRY[0]
        (worker, newest), ring.newest = ring.newest, None
        have, ahead = newest.have, newest.ahead
        poll = Poll(session, newest.attempt, newest.seq, have, -have, 0, (), ahead, newest.worker_draft)
        return worker, poll

    def introduced(self, session: int, plain: bytes) -> bytes:
        """Put what `poll_for_key` gave under the opening key, with what is needed to compute the session's key."""
        return self._introduced(self._rings[session], plain)

    def unwrap(self, payload: bytes, now: float) -> FromWorker:
        """Take a payload that came for this device.

        Raises:
            KeysRefused: no worker that may serve the session has made it for this session, or it was taken before, or
                that worker has sent more than it was asked for.
        """
        if not is_keyed(payload):
            raise KeysRefused(KeyReason.UNKEYED, "a message without a key")
        envelope = read_envelope(payload)
        ring = self._ring(envelope.session, now)
        if ring is None:
            raise KeysRefused(KeyReason.NO_KEY, f"session {envelope.session} is none of ours")
        peer, plain = self._opened(ring, envelope)
        if envelope.counter > MAX_ANSWERS * ring.sent:
            why = f"message {envelope.counter} of worker {peer.name} in session {envelope.session}"
            raise KeysRefused(KeyReason.UNASKED, f"{why}, which was asked {ring.sent} times")
        peer.replays.take(envelope.counter)
        peer.introduces = envelope.introduction is not None
        return FromWorker(plain, envelope.session, peer.name)

    def signer_of(self, status: WorkerStatus, payload: bytes) -> Credential:
        """The credential of the worker that signed its status; of one that is gone, a revoked one will do.

        Raises:
            KeysRefused: it is none of this worker that the deployment has signed, or it did not sign the status.
        """
        worker, gone = status.worker, status.state == "gone"
        if not status.signature:
            raise KeysRefused(
                KeyReason.CREDENTIAL,
                f"the status of worker {worker} is not signed: somebody else wrote it, or it has no --keys",
            )
        credential = self.trust.believed(status.credential, KeyRole.WORKER, Use.STATUSES, revoked_too=gone)
        if credential.name != worker:
            why = f"the status of worker {worker} shows the credential of {credential.name}"
            raise KeysRefused(KeyReason.CREDENTIAL, why)
        if not is_signed(payload, credential.key):
            raise KeysRefused(KeyReason.FORGED, f"the status of worker {worker} is not signed by it")
        return credential

    def _ring(self, session: int, now: float) -> Keyring | None:
        return self._rings.get(session) or self._ended.get(session, now)

    def _begun(self, session: int, version: str, private: X25519PrivateKey, sent: int) -> Keyring:
        opening = self.trust.statement.opening_of(version)
        if opening is None:
            raise UsageError(
                f"the deployment has no opening key for version {version}",
                hint="`flexspec-broker add-worker --version` makes one, for a worker that serves the version",
            )
        meant = SessionContext(
            self._name,
            self._identity.credential.serial,
            version,
            session,
            private.public_key().public_bytes_raw(),
        )
        return Keyring(meant, private, self._opening(meant, private, opening), sent)

    def _opening(self, meant: SessionContext, private: X25519PrivateKey, opening: bytes) -> Sealer:
        shares = share(private, opening), share(self._private, opening)
        return Sealer(meant.opening_key(shares, opening))

    def _introduced(self, ring: Keyring, plain: bytes) -> bytes:
        meant = ring.session
        introduction = Introduction(meant.ephemeral, self._identity.signed_credential, meant.version)
        return self._enveloped(ring, ring.opening, plain, introduction)

    def _enveloped(
        self, ring: Keyring, key: Sealer, plain: bytes, introduction: Introduction | None = None
    ) -> bytes:
        """Count on for all keys of a session: a key that is computed anew goes on where it was."""
        ring.sent += 1
        number = ring.session.number
        return enveloped(key, plain, session=number, counter=ring.sent, introduction=introduction)

    def _opened(self, ring: Keyring, envelope: Envelope) -> tuple[Peer, bytes]:
        introduction = envelope.introduction
        if introduction is None:
            return self._opened_by_known(ring, envelope)
        known = ring.peers.get(introduction.key)
        if known is not None:
            return known, envelope.opened(known.down)
        if introduction.key in ring.over:
            raise KeysRefused(
                KeyReason.REPLAYED, f"session {envelope.session}: from an earlier incarnation of its worker"
            )
        credential = self.trust.believed(introduction.credential, KeyRole.WORKER)
        if not credential.serves(ring.session.version):
            raise KeysRefused(
                KeyReason.CREDENTIAL, f"worker {credential.name} may not serve version {ring.session.version}"
            )
        peer = self._met(ring, credential, introduction.key)
        plain = envelope.opened(peer.down)
        ring.add(introduction.key, peer)
        return peer, plain

    def _opened_by_known(self, ring: Keyring, envelope: Envelope) -> tuple[Peer, bytes]:
        """The newest keys first: others are for verdicts that were under way while the session went elsewhere."""
        if not ring.peers:
            raise KeysRefused(KeyReason.NO_KEY, f"session {envelope.session} has no key with a worker yet")
        for peer in reversed(ring.peers.values()):
            try:
                return peer, envelope.opened(peer.down)
            except KeysRefused:
                continue
        raise KeysRefused(
            KeyReason.FORGED, f"session {envelope.session}: its seal is none of a worker of this session"
        )

    def _met(self, ring: Keyring, credential: Credential, ephemeral: bytes) -> Peer:
        shares = (
            share(self._private, ephemeral),
            share(ring.private, credential.key),
            share(ring.private, ephemeral),
        )
        keys = ring.session.session_keys(shares, credential.name, credential.serial, ephemeral)
        up, down = (Sealer(key) for key in keys)
        return Peer(credential.name, credential.serial, up, down)

    def _take_up(self) -> None:
        """A newer statement: forget who was revoked, and open under new keys from now on."""
        revoked = self.trust.statement.revoked
        for ring in (*self._rings.values(), *(ring for _, ring in self._ended.items())):
            opening = self.trust.statement.opening_of(ring.session.version)
            if opening is not None:
                ring.opening = self._opening(ring.session, ring.private, opening)
            for key in [key for key, peer in ring.peers.items() if peer.serial in revoked]:
                ring.revoked.add(ring.peers.pop(key).name)
