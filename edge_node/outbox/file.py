"""The file of the outbox: opened or made, and made anew of what is whole where it is damaged; errors, and a full disk.

The mode EXTRA differs from FULL in one place: the removal of the rollback journal, when the file is made, is synced as
well, without which a power cut may bring that back and with it an empty file.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from edge_node.outbox.entries import NoRoom, OutboxError
from edge_node.outbox.records import PAGE, Kind, Piece, found
from flexspec_mq import waiting
from flexspec_mq.daemon.files import sync

VERSION = 2
TABLE = "CREATE TABLE records(number INTEGER PRIMARY KEY, record BLOB NOT NULL)"
_SMALL = 256
"""Pages of a file that is small enough, whatever is in them."""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY}
_log = logging.getLogger(__name__)


class Damaged(sqlite3.DatabaseError):
    """The file has not all that was written to it."""


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection to the file, which need not be there, nor be whole; its folder is made."""
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _take_new(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return sqlite3.connect(
        path or ":memory:", timeout=waiting.FAREWELL, isolation_level=None, check_same_thread=False
    )


def check(file: sqlite3.Connection, path: Path | None) -> None:
    """Make the table of a new file; see that an old one is whole and not newer than we are.

    Raises:
        OutboxError: a newer program wrote it.
        sqlite3.Error: another process has it, it cannot be read or written, or it is damaged: see `is_damage`.
    """
    for pragma in (
        "locking_mode = EXCLUSIVE",  # no other process, and no file of memory shared with one: before any reading
        "synchronous = EXTRA",
        f"page_size = {PAGE}",
        "secure_delete = ON",
        "wal_autocheckpoint = 0",
    ):
        file.execute(f"PRAGMA {pragma}")
    ((version,),) = file.execute("PRAGMA user_version")
    if version > VERSION:
        raise OutboxError(
            f"a newer program wrote the outbox in {path} (format {version}, here {VERSION})",
            hint="start that program again, or put the file aside",
        )
    file.execute("PRAGMA journal_mode = WAL")
    if (why := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise Damaged(why)
    if version == 0:
        file.executescript(f"BEGIN IMMEDIATE; {TABLE}; PRAGMA user_version = {VERSION}; COMMIT;")
        if path is not None:
            sync(path.parent)


def compact(file: sqlite3.Connection) -> None:
    """Give back the room of what was deleted, where that is most of the file, or its pages are an old program's."""
    file.execute("PRAGMA synchronous = EXTRA")
    size, pages, free = (
        file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    if size != PAGE:
        for pragma in ("journal_mode = DELETE", f"page_size = {PAGE}", "auto_vacuum = NONE"):
            file.execute(f"PRAGMA {pragma}")
    elif not 2 * free > pages > _SMALL:
        return
    file.execute("VACUUM")
    file.execute("PRAGMA journal_mode = WAL")


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def pieces_in_log(path: Path) -> Iterator[Piece]:
    """All that the log has, valid for SQLite or not."""
    with suppress(FileNotFoundError):
        yield from found(log_of(path).read_bytes())


def seal(path: Path, number: int) -> int:
    """Note that all up to a piece is on the disk, behind what the log has; returns the log's size.

    A log of which a part is damaged ends there for SQLite, as if no more had been written. The next change
    overwrites this, and says the same.
    """
    with suppress(OSError), log_of(path).open("r+b", buffering=0) as log:
        size = log.seek(0, 2)
        log.write(Piece(0, number, 0, 0, Kind.SEAL, b"").pack())
        return size
    return 0


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it says that a file is not as it was written."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, Damaged) or (code is not None and code & 0xFF in _DAMAGE)


def make_anew(path: Path, why: Exception) -> None:
    """Make a file of all whole pieces that a damaged one and its log have; the damaged ones are put aside."""
    pieces = {piece.number: piece for piece in found(path.read_bytes())}
    pieces |= {piece.number: piece for piece in pieces_in_log(path) if piece.kind != Kind.SEAL}
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch(0o600)
        with closing(sqlite3.connect(part, isolation_level=None)) as file:
            file.execute(f"PRAGMA page_size = {PAGE}")
            file.executescript(f"BEGIN; {TABLE}; PRAGMA user_version = {VERSION};")
            rows = ((number, piece.pack()) for number, piece in pieces.items())
            file.executemany("INSERT INTO records VALUES(?, ?)", rows)
            file.execute("COMMIT")
        sync(part)
        part.replace(path.with_name(f"{path.name}.new"))
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
    _log.error("the outbox in %s is damaged (%s): it is made anew of %d whole pieces", path, why, len(pieces))
    _take_new(path)


def _take_new(path: Path) -> None:
    """Put the damaged files aside, and have the one that was made of them in their place, also after a power cut."""
    new, number = path.with_name(f"{path.name}.new"), 1
    if not new.exists():
        return
    while (aside := path.with_name(f"{path.name}.damaged.{number}")).exists() or log_of(aside).exists():
        number += 1
    for at, to in ((log_of(path), log_of(aside)), (path, aside)):
        with suppress(FileNotFoundError):
            at.replace(to)
    new.replace(path)
    sync(path.parent)
    _log.error("the damaged outbox is now in %s", aside)


def mark_of(path: Path, name: str) -> Path:
    """The empty file by which a request is dropped on a full disk, where only what takes no room can be written."""
    return path.with_name(f"{path.name}.dropped.{name}")


def dropped_in(path: Path | None) -> set[str]:
    """Ids of requests that were dropped so."""
    if path is None or not path.parent.is_dir():
        return set()
    begins = mark_of(path, "").name
    return {each.name.removeprefix(begins) for each in path.parent.iterdir() if each.name.startswith(begins)}


@contextmanager
def told(path: Path | None) -> Iterator[None]:
    """Errors of SQLite and of the file system as ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if "locked" in str(error):
            raise OutboxError(
                f"another program has the outbox in {path}",
                hint="is a node of this name running? its --api-port says where; two need names (--edge) of their own",
            ) from error
        if getattr(error, "sqlite_errorcode", None) in _FULL or getattr(error, "errno", None) in _NO_SPACE:
            raise NoRoom(
                f"the disk of the outbox in {path or 'memory'} is full",
                hint="requests with an idempotency key are taken again as soon as there is room; others need none",
            ) from error
        raise OutboxError(
            f"the outbox in {path or 'memory'} cannot be used: {error}",
            hint="is the folder writable, and the disk whole? --state-dir names another, outbox = false does without",
        ) from error
