"""The rows of the journal's file: pieces of what it persists, each with a checksum and whole within one page.

So each can be found in a damaged file, or in its log, by its bytes alone. Pieces are numbered in the order in which
they were written. Each says up to which number all was on the disk by then: a file that has less has lost something.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PAGE = 512
"""Bytes of a page of the file: what SQLite writes at least for any change."""
_MAGIC = b"\xf5\xfe\xffO"
_HEAD = struct.Struct(">4sIIIIIHc")
_ROOM = PAGE - 39 - _HEAD.size
"""Bytes of a piece: SQLite keeps a row of this size in one page."""


class Kind:
    """Kinds of parts, by their letters in the file: append only."""

    REQUEST, BODY, STATUS, SESSION, TOKENS, ANSWER, CLOCK, SEAL = (bytes([code]) for code in b"RBSOTACZ")


class Piece(NamedTuple):
    """A row.

    Attributes:
        number: key of the row.
        sealed: number of a piece that was on the disk with all before it when this one was written.
        text: number of the first piece of its text; its own of what belongs to none.
        more: pieces of the same part behind it, with the next numbers.
        kind: a letter.
        data: bytes of a compressed part.
    """

    number: int
    sealed: int
    text: int
    more: int
    kind: bytes
    data: bytes

    def pack(self) -> bytes:
        """The row's bytes."""
        numbers = self.number, self.sealed, self.text, self.more
        said = _HEAD.pack(_MAGIC, 0, *numbers, len(self.data), self.kind)[8:] + self.data
        return _MAGIC + zlib.crc32(said).to_bytes(4, "big") + said


class RecordPart(NamedTuple):
    """Something that a text, or the journal, has in one or more pieces.

    Attributes:
        kind: a letter.
        text: see `Piece`.
        numbers: numbers of the pieces.
        data: bytes of the part; None where a piece is missing.
    """

    kind: bytes
    text: int
    numbers: range
    data: bytes | None


def cut(kind: bytes, text: int, data: bytes, number: int, sealed: int) -> list[Piece]:
    """A part as pieces with the numbers from this one on; text 0 begins with it."""
    packed = zlib.compress(data)
    parts = [packed[at : at + _ROOM] for at in range(0, len(packed), _ROOM)]
    more = len(parts) - 1
    return [
        Piece(number + at, sealed, text or number, more - at, kind, part) for at, part in enumerate(parts)
    ]


def found(data: bytes) -> Iterator[Piece]:
    """All whole pieces in the bytes of a file, whatever else is in them."""
    at = data.find(_MAGIC)
    while at >= 0:
        if len(data) - at >= _HEAD.size:
            _, checksum, number, sealed, text, more, length, kind = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + length
            if end <= len(data) and zlib.crc32(data[at + 8 : end]) == checksum:
                yield Piece(number, sealed, text, more, kind, data[at + _HEAD.size : end])
        at = data.find(_MAGIC, at + 1)


def joined(pieces: Iterable[Piece]) -> Iterator[RecordPart]:
    """The parts whose pieces these are, in the order of their numbers."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (piece.number, piece.more) != (run[-1].number + 1, run[-1].more - 1):
            yield _part(run)
            run = []
        run.append(piece)
    if run:
        yield _part(run)


def _part(run: list[Piece]) -> RecordPart:
    try:
        data = None if run[-1].more else zlib.decompress(b"".join(piece.data for piece in run))
    except zlib.error:
        data = None
    return RecordPart(run[0].kind, run[0].text, range(run[0].number, run[-1].number + 1), data)
