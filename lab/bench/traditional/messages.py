"""The messages: msgpack arrays behind one byte that says whether they are compressed.

Probabilities are little-endian float16, ids of a part of the vocabulary little-endian uint16, or uint32 where an id
needs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
import zstandard
from msgspec import Meta

from flexspec_mq.errors import RemoteProtocolError
from lab.bench.traditional.probabilities import Sent

PLAIN: Final = 0
ZSTD: Final = 1
LEVEL: Final = 3
"""zstd's own default."""
MAX_BYTES: Final = 2**26
"""Of a message. 64 guesses among 262,144 ids take half of it."""

Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Tokens = tuple[Count, ...]


class Start(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A text begins; the guesses follow.

    Attributes:
        client: who asks; the target keeps what it read for each.
        text: number of the text, another one for each of a client's.
        prompt: token ids.
        temperature, top_k, top_p, seed: as in `SamplingParams`.
        eos: ids that end the text.
    """

    client: str
    text: Count
    prompt: Annotated[Tokens, Meta(min_length=1)]
    temperature: float
    top_k: Count
    top_p: float
    seed: int
    eos: Tokens


class Guesses(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """One round of a text, up.

    Attributes:
        text: its number.
        round: from 1.
        tokens: drafted ids, maybe none.
        halves: of each in turn, its distribution; empty if none is sent.
        ids: that `halves` are of; empty for the whole vocabulary.
    """

    text: Count
    round: Count
    tokens: Tokens
    halves: bytes = b""
    ids: bytes = b""


class Verdict(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What the target says to a round: the guesses that stay, and mostly one token more."""

    text: Count
    round: Count
    tokens: Annotated[Tokens, Meta(min_length=1)]


Message = Start | Guesses | Verdict

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def guesses(text: int, number: int, tokens: Sequence[int], sent: Sequence[Sent]) -> Guesses:
    """A round whose distributions are all whole, or all parts, or none is sent."""
    halves = b"".join(one.halves.astype("<f2").tobytes() for one in sent)
    parts = [one.ids for one in sent if one.ids is not None]
    if not parts:
        return Guesses(text, number, tuple(tokens), halves)
    ids = np.concatenate(parts)
    narrow = not len(ids) or int(ids.max()) < 2**16
    return Guesses(text, number, tuple(tokens), halves, ids.astype("<u2" if narrow else "<u4").tobytes())


def sent_with(message: Guesses, vocab_size: int) -> list[Sent]:
    """The distribution of each guess; empty if none was sent.

    Raises:
        RemoteProtocolError: they are not as many as the guesses, or of another vocabulary.
    """
    count = len(message.tokens)
    if not message.halves:
        return []
    each, odd = divmod(len(message.halves), 2 * max(1, count))
    if odd or not count or (not message.ids and each != vocab_size):
        raise _wrong(message, vocab_size)
    halves = np.frombuffer(message.halves, dtype="<f2").astype(np.float16).reshape(count, each)
    if not message.ids:
        return [Sent(row) for row in halves]
    width, odd = divmod(len(message.ids), halves.size)
    if odd or width not in (2, 4):
        raise _wrong(message, vocab_size)
    ids = np.frombuffer(message.ids, dtype=f"<u{width}").astype(np.uint32).reshape(count, each)
    if int(ids.max()) >= vocab_size:
        raise _wrong(message, vocab_size)
    return [Sent(row, part) for row, part in zip(halves, ids, strict=True)]


def encode(message: Message, *, compressed: bool = False) -> bytes:
    """Bytes to send; compressed only if that is asked for and smaller."""
    body = _encoder.encode(message)
    if compressed:
        smaller = zstandard.ZstdCompressor(level=LEVEL).compress(body)
        if len(smaller) < len(body):
            return bytes((ZSTD,)) + smaller
    return bytes((PLAIN,)) + body


def decode(data: bytes) -> Message:
    """Undo `encode`.

    Raises:
        RemoteProtocolError: this is no such message.
    """
    kind, body = data[:1], memoryview(data)[1:]
    try:
        if kind == bytes((ZSTD,)):
            size = zstandard.get_frame_parameters(body).content_size
            if size > MAX_BYTES:  # an undeclared size reads as 2**64 - 1
                raise RemoteProtocolError(f"the frame declares no size, or more than {MAX_BYTES} bytes")
            return _decoder.decode(zstandard.ZstdDecompressor().decompress(body))
        if kind == bytes((PLAIN,)):
            return _decoder.decode(body)
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise RemoteProtocolError(f"no message of traditional speculation: {error}") from error
    raise RemoteProtocolError(f"a message begins with {kind!r}, which says neither plain nor compressed")


def _wrong(message: Guesses, vocab_size: int) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{len(message.halves)} bytes of probabilities and {len(message.ids)} of ids do not belong to "
        f"{len(message.tokens)} guesses among {vocab_size} ids",
        hint="draft and target have different vocabularies",
    )
