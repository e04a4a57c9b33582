"""How a payload travels under a key: tagged, so that all may read it, or sealed.

::

    payload      = marker, kind, header, content
    marker       = flag byte with compression 15, which no codec uses
    kind         = SEALED | INTRODUCED | WANTED << 4, the plain payload's compression
    header       = le32 session, varint counter, introduction if INTRODUCED
    introduction = 32 bytes X25519 key, varint size, credential, byte size, version (of a device; empty of a worker)
    content      = the plain payload without its flag byte, then 8 bytes keyed BLAKE2s over all before them (tagged)
                 | ChaCha20-Poly1305 of the same, with marker, kind and header as associated data (sealed)

A key is of one direction and one session, and its counter never comes twice, so the counter is the nonce. A payload
of kind WANTED ends after the session: a worker asks for the key of a session that it does not know. Nothing vouches
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from hmac import compare_digest
from struct import Struct
from typing import ClassVar, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from flexspec_mq.keys.agreement import KEY
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.messages import KEYED, PROTOCOL_VERSION
from schemas.statement import MAX_CREDENTIAL

MARKER: Final = PROTOCOL_VERSION << 4 | KEYED
TAG, SEAL = 8, 16
"""Bytes behind a tagged and in a sealed content."""
MOST_COUNTED: Final = 2**32 - 1

_SEALED, _INTRODUCED, _WANTED = 1, 2, 4
_NONCE = 12
_HEAD = Struct("<BBI")  # marker, kind, session
_FLAGS = tuple(bytes((PROTOCOL_VERSION << 4 | code,)) for code in range(16))
_MARKED, _WANTS = bytes((MARKER,)), bytes((MARKER, _WANTED << 4))
_CUT_OFF = "a payload under keys is cut off"
WIDTH: Final = 1024
"""How far behind the newest a message may come and still be told from a copy."""
_ALL: Final = (1 << WIDTH) - 1


@dataclass(frozen=True, slots=True)
class Introduction:
    """The facts that the other side needs to compute the key.

    Attributes:
        key: the sender's X25519 public key for this session alone.
        credential: the sender's credential, signed.
        version: target version of the session, in a device's message.
    """

    key: bytes
    credential: bytes
    version: str = ""


class Tagger:
    """A key that tags: keyed BLAKE2s of 8 bytes (RFC 7693).

    Attributes:
        key: 32 bytes, of one direction of one session.
        sealed: whether it seals.
    """

    sealed: ClassVar[bool] = False

    def __init__(self, key: bytes) -> None:
        self.key: Final = key
        self._keyed = blake2s(key=key, digest_size=TAG)

    def protected(self, head: bytes, body: bytes, counter: int) -> bytes:  # noqa: ARG002  it is in the head
        """Make a payload: head, and content made of the body."""
        return head + body + self._tag(head + body)

    def body(self, payload: bytes, at: int, counter: int) -> bytes | None:  # noqa: ARG002  it is in the head
        """Read what was protected, behind a head of `at` bytes; None if it was not under this key."""
        right = compare_digest(payload[-TAG:], self._tag(payload[:-TAG]))
        return payload[at:-TAG] if right else None

    def _tag(self, data: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(data)
        return keyed.digest()


class Sealer:
    """A key that seals: ChaCha20-Poly1305 (RFC 8439); the head is associated data, the counter the nonce.

    Attributes:
        key: 32 bytes, of one direction of one session.
        sealed: whether it seals.
    """

    sealed: ClassVar[bool] = True

    def __init__(self, key: bytes) -> None:
        self.key: Final = key
        self._aead = ChaCha20Poly1305(key)

    def protected(self, head: bytes, body: bytes, counter: int) -> bytes:
        """Make a payload: see `Tagger`."""
        return head + self._aead.encrypt(counter.to_bytes(_NONCE, "little"), body, head)

    def body(self, payload: bytes, at: int, counter: int) -> bytes | None:
        """Read what was protected: see `Tagger`."""
        try:
            return self._aead.decrypt(counter.to_bytes(_NONCE, "little"), payload[at:], payload[:at])
        except InvalidTag:
            return None


Cipher = Tagger | Sealer


def cipher(key: bytes, *, sealed: bool) -> Cipher:
    """Make a key that seals or tags."""
    return Sealer(key) if sealed else Tagger(key)


@dataclass(slots=True)
class Envelope:
    """A payload whose key is not applied yet. Until then nothing of it is to be believed.

    Attributes:
        payload: bytes as they came.
        at: where its content begins.
        sealed: whether it is sealed, and not tagged.
        compression: compression of the plain payload.
        session: number of the session that it claims.
        counter: counter of messages under its key.
        introduction: introduction of the sender that it claims.
    """

    payload: bytes
    at: int
    sealed: bool
    compression: int
    session: int
    counter: int
    introduction: Introduction | None

    def opened(self, key: Cipher) -> bytes:
        """The plain payload.

        Raises:
            KeysRefused: nobody made this with `key`.
        """
        body = key.body(self.payload, self.at, self.counter) if key.sealed is self.sealed else None
        if body is None:
            kind = "seal" if self.sealed else "tag"
            raise KeysRefused(
                KeyReason.FORGED, f"session {self.session}: its {kind} is none of the session's"
            )
        return _FLAGS[self.compression] + body


def enveloped(
    key: Cipher, plain: bytes, *, session: int, counter: int, introduction: Introduction | None = None
) -> bytes:
    """Tag or seal a plain payload.

    Args:
        key: key of one direction of one session.
        plain: payload of the codec.
        session: number of the session.
        counter: a number that is never the same twice under a key.
        introduction: goes where the other side may lack the key.
    """
    kind = (_SEALED if key.sealed else 0) << 4 | plain[0] & 0x0F
    if introduction is None:
        head = _HEAD.pack(MARKER, kind, session) + _varint(counter)
    else:
        start = _HEAD.pack(MARKER, kind | _INTRODUCED << 4, session)
        head = start + _varint(counter) + _introduction(introduction)
    return key.protected(head, plain[1:], counter)


def is_keyed(payload: bytes) -> bool:
    """Whether a payload says that it is under a key."""
    return payload[:1] == _MARKED


def read_envelope(payload: bytes) -> Envelope:
    """Take a keyed payload apart.

    Raises:
        KeysRefused: it is cut off, or of a kind that is unknown here.
    """
    if len(payload) < _HEAD.size:
        raise KeysRefused(KeyReason.MALFORMED, _CUT_OFF)
    marker, kind, session = _HEAD.unpack_from(payload)
    flags, compression = kind >> 4, kind & 0x0F
    if marker != MARKER or flags & ~(_SEALED | _INTRODUCED) or compression == KEYED:
        raise KeysRefused(
            KeyReason.MALFORMED, f"a payload under keys of kind {kind:#x}", hint="update this program"
        )
    counter, at = _number(payload, _HEAD.size)
    introduction = None
    if flags & _INTRODUCED:
        introduction, at = _introduced(payload, at)
    sealed = bool(flags & _SEALED)
    if len(payload) - at <= (SEAL if sealed else TAG):
        raise KeysRefused(KeyReason.MALFORMED, _CUT_OFF)
    return Envelope(payload, at, sealed, compression, session, counter, introduction)


def key_wanted(session: int) -> bytes:
    """The answer of a worker that lacks the key of a session."""
    return _HEAD.pack(MARKER, _WANTED << 4, session)


def wanted_session(payload: bytes) -> int | None:
    """The session in the answer that `key_wanted` makes; None for anything else."""
    if len(payload) != _HEAD.size or payload[:2] != _WANTS:
        return None
    return int.from_bytes(payload[2:], "little")


def _introduction(shown: Introduction) -> bytes:
    version, size = shown.version.encode("ascii"), _varint(len(shown.credential))
    return b"".join((shown.key, size, shown.credential, bytes((len(version),)), version))


def _varint(number: int) -> bytes:
    if not 0 <= number <= MOST_COUNTED:
        raise ValueError(f"{number} is not between 0 and {MOST_COUNTED}")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(payload: bytes, at: int) -> tuple[int, int]:
    """The number there, of 32 bits at most and no longer than it need be, and where it ends."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(payload):
            raise KeysRefused(KeyReason.MALFORMED, _CUT_OFF)
        byte = payload[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number > MOST_COUNTED or (shift and not byte):
                break
            return number, at
    raise KeysRefused(KeyReason.MALFORMED, "a number in a header is none")


def _introduced(payload: bytes, at: int) -> tuple[Introduction, int]:
    """The introduction there, and where it ends."""
    key, at = _piece(payload, at, KEY)
    size, at = _number(payload, at)
    if size > MAX_CREDENTIAL:
        raise KeysRefused(KeyReason.MALFORMED, f"a credential of {size} bytes, more than {MAX_CREDENTIAL}")
    credential, at = _piece(payload, at, size)
    length, at = _piece(payload, at, 1)
    version, at = _piece(payload, at, length[0])
    try:
        return Introduction(key, credential, version.decode("ascii")), at
    except UnicodeDecodeError:
        raise KeysRefused(KeyReason.MALFORMED, "the name of a version is none") from None


def _piece(payload: bytes, at: int, size: int) -> tuple[bytes, int]:
    """`size` bytes there, and where they end."""
    end = at + size
    if end > len(payload):
        raise KeysRefused(KeyReason.MALFORMED, _CUT_OFF)
    return payload[at:end], end


class ReplayWindow:
    """The window of IPsec (RFC 4303, 3.4.3): takes each counter once, in any order within `WIDTH` of the newest."""

    def __init__(self) -> None:
        self._newest = -1
        self._taken = 0  # bit i: newest - i was taken

    def take(self, counter: int) -> None:
        """Note a message whose key was right.

        Raises:
            KeysRefused: it was taken before, or is too old to tell.
        """
        ahead = counter - self._newest
        if ahead > 0:
            self._taken = (self._taken << min(ahead, WIDTH) | 1) & _ALL
            self._newest = counter
            return
        if -ahead >= WIDTH or self._taken >> -ahead & 1:
            raise KeysRefused(
                KeyReason.REPLAYED, f"message {counter} of its sender, after {self._newest}, again"
            )
        self._taken |= 1 << -ahead
