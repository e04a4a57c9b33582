"""How a payload travels under a key.

::

    payload      = marker, kind, header, content
    marker       = flag byte with compression 15, which no codec uses
    kind         = (SEALED | INTRODUCED | WANTED) << 4, the plain payload's compression
    header       = le32 session, varint counter, introduction if INTRODUCED
    introduction = 32 bytes X25519 key, varint size, credential, byte size, version (of a device; empty of a worker)
    content      = ChaCha20-Poly1305 of the plain payload without its flag byte, with all before it as associated data;
                   padded with 0x80 and zeros, up to a size that `bucket` gives

A key is of one direction and one session, and its counter never comes twice, so the counter is the nonce. A payload
of kind WANTED ends after the session: a worker asks for the key of a session that it does not know. Nothing vouches
for it.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from flexspec_mq.keys.agreement import KEY
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.messages import KEYED, PROTOCOL_VERSION
from schemas.statement import MAX_CREDENTIAL

MARKER: Final = PROTOCOL_VERSION << 4 | KEYED
SEAL: Final = 16
"""Bytes by which a content is longer than what is sealed in it."""
MOST_COUNTED: Final = 2**32 - 1

STEP: Final = 64
"""Least difference of two sizes of padded contents: more than a draft or verdict of a dozen tokens has."""

_SEALED, _INTRODUCED, _WANTED = 9, 2, 4
_END = b"\x80"
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


class Sealer:
    """A key that seals: ChaCha20-Poly1305 (RFC 8439); the head is associated data, the counter the nonce.

    Attributes:
        key: 32 bytes, of one direction of one session.
    """

    def __init__(self, key: bytes) -> None:
        self.key: Final = key
        self._aead = ChaCha20Poly1305(key)

    def sealed(self, head: bytes, body: bytes, counter: int) -> bytes:
        """Make a payload: head, and content made of the body."""
        return head + self._aead.encrypt(counter.to_bytes(_NONCE, "little"), body, head)

    def body(self, payload: bytes, at: int, counter: int) -> bytes | None:
        """Read what was sealed, behind a head of `at` bytes; None if it was not under this key."""
        try:
            return self._aead.decrypt(counter.to_bytes(_NONCE, "little"), payload[at:], payload[:at])
        except InvalidTag:
            return None


@dataclass(slots=True)
class Envelope:
    """A payload whose key is not applied yet. Until then nothing of it is to be believed.

    Attributes:
        payload: bytes as they came.
        at: where its content begins.
        compression: compression of the plain payload.
        session: number of the session that it claims.
        counter: counter of messages under its key.
        introduction: introduction of the sender that it claims.
    """

    payload: bytes
    at: int
    compression: int
    session: int
    counter: int
    introduction: Introduction | None

    def opened(self, key: Sealer) -> bytes:
        """The plain payload.

        Raises:
            KeysRefused: nobody made this with `key`.
        """
        body = key.body(self.payload, self.at, self.counter)
        if body is None:
            raise KeysRefused(KeyReason.FORGED, f"session {self.session}: its seal is none of the session's")
        unpadded = body.rstrip(b"\0")
        if not unpadded.endswith(_END):
            raise KeysRefused(KeyReason.MALFORMED, f"session {self.session}: its padding is none")
        return _FLAGS[self.compression] + unpadded[:-1]


def bucket(size: int) -> int:
    """The size to which a content of so many bytes is padded: PADMÉ's (Nikitin et al., 2019), which adds 12 % at most.

    Small ones go to the next multiple of `STEP` instead.
    """
    exponent = size.bit_length() - 1
    step = max(STEP, 1 << (exponent - exponent.bit_length()))
    return -(-size // step) * step


def enveloped(
    key: Sealer, plain: bytes, *, session: int, counter: int, introduction: Introduction | None = None
) -> bytes:
    """Seal a plain payload.

    Args:
        key: key of one direction of one session.
        plain: payload of the codec.
        session: number of the session.
        counter: a number that is never the same twice under a key.
        introduction: goes where the other side may lack the key.
    """
    kind = _SEALED << 4 | plain[0] & 0x0F
    body = (plain[1:] + _END).ljust(bucket(len(plain)), b"\0")
    if introduction is None:
        head = _HEAD.pack(MARKER, kind, session) + _varint(counter)
    else:
        start = _HEAD.pack(MARKER, kind | _INTRODUCED << 4, session)
        head = start + _varint(counter) + _introduction(introduction)
    return key.sealed(head, body, counter)


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
    if marker != MARKER or flags & ~_INTRODUCED != _SEALED or compression == KEYED:
        raise KeysRefused(
            KeyReason.MALFORMED, f"a payload under keys of kind {kind:#x}", hint="update this program"
        )
    counter, at = _number(payload, _HEAD.size)
    introduction = None
    if flags & _INTRODUCED:
        introduction, at = _introduced(payload, at)
    if len(payload) - at <= SEAL:
        raise KeysRefused(KeyReason.MALFORMED, _CUT_OFF)
    return Envelope(payload, at, compression, session, counter, introduction)


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
