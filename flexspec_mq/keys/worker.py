"""Keys of a worker: of the sessions of each device. Bytes in, bytes out; no I/O and no clock."""

from dataclasses import dataclass, field
from math import inf
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flexspec_mq import waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.keys.agreement import SessionContext, public_key, share, status_key
from flexspec_mq.keys.documents import Credential, KeyRole, sign_status
from flexspec_mq.keys.envelope import (
    Envelope,
    Introduction,
    ReplayWindow,
    Sealer,
    enveloped,
    is_keyed,
    key_wanted,
    read_envelope,
)
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.keys.trust import Trust

_AFTER_THE_LEASE: Final = 120.0
"""Seconds that a key is kept longer than a session without a word of its device."""
_KEPT_EVERY: Final = 1.0
"""Seconds after which a session that goes on is noted to do so."""
_MOST_DEVICES: Final = 4096
_LEAST_SESSIONS: Final = 128
"""Sessions of a device whose keys are kept, or twice as many as the worker takes on; the most silent goes first."""
_MOST_VERSIONS: Final = 64
"""Versions whose opening keys are kept at hand."""
_ASKED: Final = 4096
"""Sessions that are remembered as asked for their key."""


@dataclass(slots=True)
class _Keyring:
    """The keys of one session.

    Attributes:
        introduced: whether the device has shown that it knows the key.
        kept_until: time at which it is forgotten, if nothing comes.
    """

    session: SessionContext
    opening: Sealer
    up: Sealer
    down: Sealer
    ephemeral: bytes
    sent: int = 0
    introduced: bool = False
    kept_until: float = -inf
    opens: ReplayWindow = field(default_factory=ReplayWindow)
    others: ReplayWindow = field(default_factory=ReplayWindow)


class WorkerKeys:
    """The keys of a worker.

    Args:
        identity: identity of the worker.
        lease: seconds without a word after which it ends a session.
        capacity: sessions that it takes on.

    Attributes:
        trust: decides whom it believes.
        credential: credential of the worker, signed.
        status_credential: the one that its statuses show.
    """

    def __init__(self, identity: KeyIdentity, *, lease: float, capacity: int) -> None:
        self._identity = identity
        self.credential = identity.signed_credential
        self.status_credential = identity.status_credential
        self._private = X25519PrivateKey.from_private_bytes(identity.private)
        self._ttl = lease + _AFTER_THE_LEASE
        self._most = max(_LEAST_SESSIONS, 2 * capacity)
        self._devices = ExpiringMap[str, ExpiringMap[int, _Keyring]](most=_MOST_DEVICES, ttl=self._ttl)
        self._kept: dict[tuple[str, int], _Keyring] = {}  # for as long as their sessions are here
        self._openings = ExpiringMap[str, tuple[tuple[X25519PrivateKey, bytes], ...]](most=_MOST_VERSIONS)
        self._asked = ExpiringMap[tuple[str, int], bool](most=_ASKED, ttl=waiting.RETRY[0])
        self.trust = Trust(identity)
        self.trust.on_change = self._forget_revoked

    def unwrap(self, edge: str, version: str | None, payload: bytes, now: float) -> tuple[bytes, int]:
        """Take a payload.

        Args:
            edge: the device that the topic names.
            version: the version that the topic names; None on the worker's own topic.
            payload: bytes as they came.
            now: seconds.

        Returns:
            The payload for the codec, which the device has made, and the session that its message must be of.

        Raises:
            KeysRefused: the device has not made it for this session, or it was taken before. With reason `NO_KEY`,
                `wanted` says what to answer.
        """
        if not is_keyed(payload):
            raise KeysRefused(
                KeyReason.UNKEYED,
                "this worker takes messages under keys only",
                hint="give the device the file of --keys",
            )
        envelope = read_envelope(payload)
        ring = self._ring(edge, envelope.session, now)
        if envelope.introduction is not None:
            ring, plain = self._introduced(edge, version, envelope, envelope.introduction, ring)
            ring.opens.take(envelope.counter)
            ring.introduced = False
        elif ring is None:
            raise KeysRefused(KeyReason.NO_KEY, f"session {envelope.session} has no key here")
        else:
            plain = envelope.opened(ring.up)
            ring.others.take(envelope.counter)
            ring.introduced = True
        self._keep(edge, ring, now)
        return plain, envelope.session

    def wrap(self, edge: str, session: int, plain: bytes, now: float, *, introduced: bool = False) -> bytes:
        """Put an answer, a payload of the codec, under the session's key with a device.

        Args:
            edge: the device.
            session: number of the session.
            plain: payload of the codec.
            now: seconds.
            introduced: whether it introduces this worker in any case, as the device may know no key any more.

        Raises:
            KeysRefused: the key is not here any more.
        """
        ring = self._ring(edge, session, now)
        if ring is None:
            raise KeysRefused(KeyReason.NO_KEY, f"session {session} has no key here any more")
        ring.sent += 1
        known = ring.introduced and not introduced
        introduction = None if known else Introduction(ring.ephemeral, self.credential)
        return enveloped(ring.down, plain, session=session, counter=ring.sent, introduction=introduction)

    def keep(self, edge: str, session: int, now: float) -> None:
        """Keep the key of a session until `forget`, however long its device is silent."""
        if (ring := self._ring(edge, session, now)) is not None:
            self._kept[edge, session] = ring

    def forget(self, edge: str, session: int) -> None:
        """Keep the key of a session for no longer than those of others."""
        self._kept.pop((edge, session), None)

    def version_of(self, edge: str, session: int, now: float) -> str | None:
        """Version of a session as its device told it; None if the key is not here any more."""
        ring = self._ring(edge, session, now)
        return None if ring is None else ring.session.version

    def wanted(self, edge: str, payload: bytes, now: float) -> bytes | None:
        """The answer to a payload that was refused for want of a key; None if that was said a moment ago."""
        session = read_envelope(payload).session
        if self._asked.get((edge, session), now):
            return None
        self._asked.put((edge, session), True, now)
        return key_wanted(session)

    def signed_status(self, document: bytes) -> bytes:
        """A status of this worker with its signature."""
        return sign_status(document, status_key(self._identity.private))

    def outdated(self, version: str) -> bool:
        """Whether opens of a version are made for an opening key that this worker does not hold, by the statement."""
        stated = self.trust.statement.opening_of(version)
        return all(public != stated for _, public in self._openings_of(version))

    def _ring(self, edge: str, session: int, now: float) -> _Keyring | None:
        if (kept := self._kept.get((edge, session))) is not None:
            return kept
        sessions = self._devices.get(edge, now)
        return None if sessions is None else sessions.get(session, now)

    def _keep(self, edge: str, ring: _Keyring, now: float) -> None:
        if now + self._ttl - ring.kept_until < _KEPT_EVERY:
            return
        ring.kept_until = now + self._ttl
        sessions = self._devices.get(edge, now)
        if sessions is None:
            self._devices.expire(now)
            sessions = ExpiringMap[int, _Keyring](most=self._most, ttl=self._ttl)
        sessions.put(ring.session.number, ring, now)
        sessions.expire(now)
        self._devices.put(edge, sessions, now)

    def _introduced(
        self,
        edge: str,
        version: str | None,
        envelope: Envelope,
        introduction: Introduction,
        ring: _Keyring | None,
    ) -> tuple[_Keyring, bytes]:
        """Read a message under the opening key. The first to open a session is the one that it belongs to."""
        credential = self.trust.believed(introduction.credential, KeyRole.EDGE)
        if credential.name != edge:
            raise KeysRefused(KeyReason.CREDENTIAL, f"the credential of {credential.name}")
        if version is not None and version != introduction.version:
            raise KeysRefused(
                KeyReason.FORGED, f"an open for version {introduction.version} came to those of {version}"
            )
        meant = SessionContext(
            edge, credential.serial, introduction.version, envelope.session, introduction.key
        )
        if ring is not None:
            if ring.session != meant:
                raise KeysRefused(
                    KeyReason.FORGED, f"session {envelope.session} is here, and was opened by another key"
                )
            try:
                return ring, envelope.opened(ring.opening)
            except KeysRefused:  # the device may have heard of new opening keys since
                ring.opening, plain = self._opened(meant, credential, envelope)
                return ring, plain
        opening, plain = self._opened(meant, credential, envelope)
        return self._met(meant, credential, opening), plain

    def _opened(
        self, meant: SessionContext, credential: Credential, envelope: Envelope
    ) -> tuple[Sealer, bytes]:
        for private, public in self._openings_of(meant.version):
            shares = share(private, meant.ephemeral), share(private, credential.key)
            opening = Sealer(meant.opening_key(shares, public))
            try:
                return opening, envelope.opened(opening)
            except KeysRefused:
                continue
        if self.outdated(meant.version):
            raise KeysRefused(
                KeyReason.OPENING,
                f"session {envelope.session}: this worker lacks the opening key of {meant.version}",
            )
        raise KeysRefused(
            KeyReason.FORGED,
            f"session {envelope.session}: not made for an opening key of version {meant.version} that is known here",
            hint="device and worker may have keys of different times: hand out their files again",
        )

    def _openings_of(self, version: str) -> tuple[tuple[X25519PrivateKey, bytes], ...]:
        """Private and public opening keys that devices may have used for a version."""
        openings = self._openings.get(version, 0.0)
        if openings is None:
            openings = tuple(
                (X25519PrivateKey.from_private_bytes(private), public_key(private))
                for private in self._identity.opening.candidates(version)
            )
            self._openings.put(version, openings, 0.0)
        return openings

    def _met(self, meant: SessionContext, credential: Credential, opening: Sealer) -> _Keyring:
        """Compute the keys of a session, by an ephemeral key of its own, so that none is computed a second time."""
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        shares = (
            share(private, credential.key),
            share(self._private, meant.ephemeral),
            share(private, meant.ephemeral),
        )
        own = self._identity.credential
        keys = meant.session_keys(shares, own.name, own.serial, public)
        up, down = (Sealer(key) for key in keys)
        return _Keyring(meant, opening, up, down, public)

    def _forget_revoked(self) -> None:
        revoked = self.trust.statement.revoked
        self._kept = {key: ring for key, ring in self._kept.items() if ring.session.device not in revoked}
        for _, sessions in self._devices.items():  # noqa: PERF102  it has no values()
            for number in [number for number, ring in sessions.items() if ring.session.device in revoked]:
                sessions.pop(number)
