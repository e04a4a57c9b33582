"""Texts of a server that tells no token ids: their vocabulary is the bytes of UTF-8, with marks for all else.

The prompt of such a text is the request itself, as JSON; the server's own template applies. The answer is what the
server streamed: its content, reasoning, refusal and calls, each behind the mark of its channel, then the server's
figures as JSON, and the mark of its end. Digests, seals, the outbox and resuming are those of any other text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec

from schemas.served import ServedUsage

BYTE_CONTEXT = 131_072
"""Bytes of a prompt and its answer together: as many ids as a prompt on the wire may have."""
BYTES_PER_TOKEN = 32
"""Bytes that a token of a server's text has at most, on average over a text."""
AROUND = 4096
"""Bytes of an answer that are no text: marks, heads of calls, figures."""
_FIRST_CHARACTER = 0xFDD0
"""Marks as characters, beside each other: these are of no use for interchange, by Unicode's own word."""


class Channel(IntEnum):
    """Ids of marks: the bytes behind one belong to its channel, until the next mark."""

    CONTENT = 256
    REASONING = 257
    REFUSAL = 258
    CALL = 259
    """Name of a tool."""
    ARGUMENTS = 260
    """Arguments of the call whose name precedes, as JSON."""
    CALLED = 261
    """Nothing: the call is complete."""
    FIGURES = 262
    """Usage as the server tells it, as JSON."""

    @property
    def character(self) -> str:
        """The mark within a text of characters."""
        return chr(_FIRST_CHARACTER + self - 256)


class ByteEnd(IntEnum):
    """Ids that end a text: why the server says that it ended."""

    STOP = 272
    LENGTH = 273
    CONTENT_FILTER = 274


ROWS = 288
"""Ids below which all are."""
MARKS = "".join(channel.character for channel in Channel)
"""All characters of marks, which no channel holds as text."""
_NO_MARKS = str.maketrans(dict.fromkeys(MARKS, "\N{REPLACEMENT CHARACTER}"))


def encode_text(text: str) -> bytes:
    """The bytes of a channel's text, each of which is an id."""
    return text.translate(_NO_MARKS).encode("utf-8", "replace")


def whole_characters(ids: Sequence[int]) -> int:
    """How many ids of an answer there are without the bytes of a character that is cut at its end."""
    for back in range(1, min(4, len(ids)) + 1):
        last = ids[-back]
        if last < 0x80 or last > 0xFF:
            return len(ids)
        if last >= 0xC0:
            wants = 2 if last < 0xE0 else 3 if last < 0xF0 else 4
            return len(ids) if back >= wants else len(ids) - back
    return len(ids)


def channels(ids: Iterable[int]) -> list[tuple[Channel, str]]:
    """The parts of an answer in their order, neighbours of one channel together."""
    decoder, at = ByteDecoder(), Channel.CONTENT
    parts: list[tuple[Channel, str]] = []
    for piece in split(decoder.push(ids)):
        if piece in MARKS:
            at = Channel(256 + ord(piece) - _FIRST_CHARACTER)
            if at in (Channel.CALL, Channel.CALLED):
                parts.append((at, ""))
        elif parts and parts[-1][0] is at:
            parts[-1] = at, parts[-1][1] + piece
        else:
            parts.append((at, piece))
    return parts


def served_usage(committed: Sequence[int]) -> ServedUsage | None:
    """Usage as the server told it, of a text that is complete; None before, or where it told none."""
    if not committed or committed[-1] <= max(Channel):
        return None
    begin = max((at for at, each in enumerate(committed) if each == Channel.FIGURES), default=None)
    if begin is None:
        return None
    try:
        return msgspec.json.decode(bytes(committed[begin + 1 : -1]), type=ServedUsage)
    except (msgspec.MsgspecError, ValueError):
        return None


def split(text: str) -> list[str]:
    """Marks, and what is between them."""
    pieces, begin = [], 0
    for at, character in enumerate(text):
        if character in MARKS:
            pieces += [text[begin:at]] if at > begin else []
            pieces.append(character)
            begin = at + 1
    return pieces + ([text[begin:]] if begin < len(text) else [])


class ByteDecoder:
    """Turns ids into characters piece by piece; bytes of an unfinished character are held back."""

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """Add ids; returns the text that has become certain, maybe none."""
        text = ""
        for each in ids:
            if each < 256:
                text += self._bytes.decode(bytes((each,)))
            elif each <= max(Channel):
                text += self._bytes.decode(b"", final=True) + Channel(each).character
        return text

    def finish(self) -> str:
        """End the stream, without the bytes of an unfinished character."""
        self._bytes.reset()
        return ""
