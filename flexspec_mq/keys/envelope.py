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
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from flexspec_mq.keys.agreement import KEY
from flexspec_mq.keys.credential import MAX_CREDENTIAL
from flexspec_mq.keys.refusals import KeysRefused, Reason
from schemas.messages import KEYED, PROTOCOL_VERSION

MARKER: Final = PROTOCOL_VERSION << 4 | KEYED
TAG, SEAL = 8, 16
"""Bytes behind a tagged and in a sealed content."""
MOST_COUNTED: Final = 2**32 - 1

_SEALED, _INTRODUCED, _WANTED = 1, 2, 4
_NONCE = 12


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the other side needs to compute the key.

    Attributes:
        key: the sender's X25519 public key for this session alone.
        credential: of the sender, signed.
        version: of a device's message: target version of the session.
    """

    key: bytes
    credential: bytes
    version: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload whose key is not applied yet. Until then nothing of it is to be believed.

    Attributes:
        sealed: else it is tagged.
        compression: of the plain payload.
        session: that it says it is of.
        counter: of messages under its key.
        introduction: of who says that he sent it.
        head: marker, kind and header, as they came.
        content: with tag or seal.
    """

    sealed: bool
    compression: int
    session: int
    counter: int
    introduction: Introduction | None
    head: bytes
    content: bytes

    def opened(self, key: bytes) -> bytes:
        """The plain payload.

        Raises:
            KeysRefused: nobody made this with `key`.
        """
        content = self.content
        if self.sealed:
            nonce = self.counter.to_bytes(_NONCE, "little")
            try:
                body = ChaCha20Poly1305(key).decrypt(nonce, content, self.head)
            except InvalidTag:
                raise KeysRefused(Reason.FORGED, "its seal is none of this session's") from None
        else:
            body, tag = content[:-TAG], content[-TAG:]
            if not compare_digest(tag, _tag(key, self.head, body)):
                raise KeysRefused(Reason.FORGED, "its tag is none of this session's")
        return bytes((PROTOCOL_VERSION << 4 | self.compression,)) + body


def enveloped(
    key: bytes,
    plain: bytes,
    *,
    sealed: bool,
    session: int,
    counter: int,
    introduction: Introduction | None = None,
) -> bytes:
    """Tag or seal a plain payload.

    Args:
        key: of one direction of one session, 32 bytes.
        plain: as the codec made it.
        sealed: else it is tagged.
        session: its number.
        counter: never the same twice under a key.
        introduction: where the other side may lack the key.
    """
    if len(key) != KEY or not 0 <= counter <= MOST_COUNTED:
        raise ValueError(f"a key of {len(key)} bytes, message {counter}")
    kind = _SEALED * sealed | _INTRODUCED * (introduction is not None)
    head = bytearray((MARKER, kind << 4 | plain[0] & 0x0F))
    head += session.to_bytes(4, "little")
    head += _varint(counter)
    if introduction is not None:
        version = introduction.version.encode("ascii")
        head += introduction.key + _varint(len(introduction.credential)) + introduction.credential
        head += bytes((len(version),)) + version
    body = plain[1:]
    if sealed:
        nonce = counter.to_bytes(_NONCE, "little")
        return bytes(head) + ChaCha20Poly1305(key).encrypt(nonce, body, bytes(head))
    return bytes(head) + body + _tag(key, bytes(head), body)


def is_keyed(payload: bytes) -> bool:
    """Whether a payload says that it is under a key."""
    return payload[:1] == bytes((MARKER,))


def read_envelope(payload: bytes) -> Envelope:
    """Take a keyed payload apart.

    Raises:
        KeysRefused: it is cut off, or of a kind that is unknown here.
    """
    reader = _Reader(payload)
    marker, kind = reader.take(2)
    flags, compression = divmod(kind, 16)
    if marker != MARKER or flags & ~(_SEALED | _INTRODUCED) or compression == KEYED:
        raise KeysRefused(
            Reason.MALFORMED, f"a payload under keys of kind {kind:#x}", hint="update this program"
        )
    session = int.from_bytes(reader.take(4), "little")
    counter = reader.varint()
    introduction = None
    if flags & _INTRODUCED:
        key = reader.take(KEY)
        size = reader.varint()
        if size > MAX_CREDENTIAL:
            raise KeysRefused(Reason.MALFORMED, f"a credential of {size} bytes, more than {MAX_CREDENTIAL}")
        credential = reader.take(size)
        try:
            version = reader.take(reader.take(1)[0]).decode("ascii")
        except UnicodeDecodeError:
            raise KeysRefused(Reason.MALFORMED, "the name of a version is none") from None
        introduction = Introduction(key, credential, version)
    sealed = bool(flags & _SEALED)
    content = payload[reader.at :]
    if len(content) <= (SEAL if sealed else TAG):
        raise KeysRefused(Reason.MALFORMED, "a payload under keys is cut off")
    return Envelope(sealed, compression, session, counter, introduction, payload[: reader.at], content)


def key_wanted(session: int) -> bytes:
    """What a worker answers that lacks the key of a session."""
    return bytes((MARKER, _WANTED << 4)) + session.to_bytes(4, "little")


def wanted_session(payload: bytes) -> int | None:
    """The session of what `key_wanted` made; None of anything else."""
    if len(payload) != 6 or payload[:2] != bytes((MARKER, _WANTED << 4)):
        return None
    return int.from_bytes(payload[2:], "little")


def _tag(key: bytes, head: bytes, body: bytes) -> bytes:
    return blake2s(head + body, key=key, digest_size=TAG).digest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Reader:
    """Takes bytes off the front of a payload."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        taken = self._payload[self.at : self.at + size]
        if len(taken) != size:
            raise KeysRefused(Reason.MALFORMED, "a payload under keys is cut off")
        self.at += size
        return taken

    def varint(self) -> int:
        """The next number, of 32 bits at most and no longer than it need be."""
        number = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number > MOST_COUNTED or (shift and not byte):
                    break
                return number
        raise KeysRefused(Reason.MALFORMED, "a number in a header is none")
