"""The file of the outbox: opened or made, and put aside where it is damaged; its errors; what is left on a full disk.

The mode EXTRA differs from FULL in one place: the removal of the rollback journal, when the file is made, is synced as
well, without which a power cut may bring that back and with it an empty file.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_node.outbox.entries import NoRoom, OutboxError
from flexspec_mq import waiting
from flexspec_mq.daemon.files import sync

_VERSION = 1
_TABLES = """
CREATE TABLE requests(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
  path TEXT NOT NULL, client BLOB NOT NULL, choice INTEGER NOT NULL, mode TEXT NOT NULL, accepted REAL NOT NULL,
  state TEXT NOT NULL DEFAULT 'queued', life INTEGER NOT NULL DEFAULT 0, finished REAL,
  read INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', opened BLOB, body BLOB NOT NULL, answer BLOB
);
CREATE TABLE tokens(
  request INTEGER NOT NULL REFERENCES requests ON DELETE CASCADE, start INTEGER NOT NULL,
  tokens BLOB NOT NULL, origins BLOB NOT NULL, PRIMARY KEY(request, start)
) WITHOUT ROWID;
"""
_WAL = 2**20
"""Bytes to which the write-ahead log shrinks whenever it begins anew."""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_log = logging.getLogger(__name__)


def open_file(path: Path | None) -> sqlite3.Connection:
    """Open the file, or make it.

    Raises:
        OutboxError: a newer program wrote it.
        sqlite3.OperationalError: another process has it, or it cannot be read or written.
        sqlite3.DatabaseError: it is damaged.
    """
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    file = sqlite3.connect(
        path or ":memory:", timeout=waiting.FAREWELL, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (
            "locking_mode = EXCLUSIVE",  # no other process, and no file of memory shared with one: before any reading
            "synchronous = EXTRA",
            f"journal_size_limit = {_WAL}",
            "secure_delete = ON",
            "foreign_keys = ON",
        ):
            file.execute(f"PRAGMA {pragma}")
        _check(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _check(file: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables of a new file; see that an old one is whole and of this version."""
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise OutboxError(
            f"a newer program wrote the outbox in {path} (format {version}, here {_VERSION})",
            hint="start that program again, or put the file aside",
        )
    if version == 0:
        file.execute("PRAGMA auto_vacuum = FULL")  # before anything is written
    file.execute("PRAGMA journal_mode = WAL")
    if (found := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(found)
    if version == 0:
        file.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")
        if path is not None:
            sync(path.parent)


def mark_of(path: Path, name: str) -> Path:
    """The empty file by which a request is dropped on a full disk, where only what takes no room can be written."""
    return path.with_name(f"{path.name}.dropped.{name}")


def dropped_in(path: Path | None) -> set[str]:
    """Ids of requests that were dropped so."""
    if path is None or not path.parent.is_dir():
        return set()
    begins = mark_of(path, "").name
    return {each.name.removeprefix(begins) for each in path.parent.iterdir() if each.name.startswith(begins)}


def put_aside(path: Path, why: Exception) -> None:
    """Move a damaged file away, over the last one that was."""
    aside = path.with_name(f"{path.name}.damaged")
    _log.error("the outbox in %s is damaged (%s): it is now %s, and an empty one begins", path, why, aside)
    for end in ("", "-wal"):
        aside.with_name(aside.name + end).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(aside.with_name(aside.name + end))


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
