"""Files of the format that this program wrote first: a table of requests and one of tokens, read to be converted."""

import sqlite3

from edge_node.outbox.entries import Entry, Opening, unpacked
from edge_node.outbox.file import TABLE, VERSION
from flexspec_mq.protocol.effects import Commit

Old = tuple[Entry, list[Commit], bytes]
"""A request, its tokens, and its answer."""
TO_FORMAT_2 = (
    "DROP TABLE tokens", "DROP TABLE requests", "DROP TABLE IF EXISTS clock", TABLE, f"PRAGMA user_version = {VERSION}",
)  # fmt: skip
_ENTRY = (
    "id", "key", "digest", "path", "client", "choice", "mode", "accepted", "state", "life", "finished", "error", "body",
)  # fmt: skip
_ROWS = f"SELECT number, read, opened, answer, {', '.join(_ENTRY)} FROM requests ORDER BY number"  # noqa: S608  its own


def read(file: sqlite3.Connection) -> tuple[tuple[str, float, float], list[Old]] | None:
    """Clock and requests of the file; None of a file of another format."""
    if file.execute("PRAGMA user_version").fetchone() != (1,):
        return None
    clock = ("", 0.0, 0.0)
    if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'clock'").fetchone():
        clock = file.execute("SELECT boot, ahead, seen FROM clock").fetchone() or clock
    return clock, [_text(file, *row) for row in file.execute(_ROWS).fetchall()]


def _text(
    file: sqlite3.Connection,
    number: int,
    read: int,
    opened: bytes | None,
    answer: bytes | None,
    *known: object,
) -> Old:
    rows = file.execute(
        "SELECT start, tokens, origins FROM tokens WHERE request = ? ORDER BY start", (number,)
    )
    commits, at = list[Commit](), 0
    for start, tokens, codes in rows:
        if start != at:
            break
        commits.append(unpacked(start.to_bytes(4, "little") + tokens + codes))
        at += len(codes)
    session = None if opened is None else Opening.read(opened)
    fields = dict(zip(_ENTRY, known, strict=True))
    fields["restarts"] = fields.pop("life")
    if fields["state"] == "writing":
        fields["state"] = "queued"  # which its tokens make it again
    return Entry(**fields, read=bool(read), opened=session), commits, answer or b""  # type: ignore[arg-type]
