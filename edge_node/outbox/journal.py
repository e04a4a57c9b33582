"""The outbox on disk: one SQLite file, in which a call that has returned survives kill and power cut. Synchronous.

WAL with a sync at each commit. The mode EXTRA differs from FULL in one place: the removal of the rollback journal, when
the file is made, is synced as well, without which a power cut may bring that back and with it an empty file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_node.outbox.entries import (
    LIVES,
    Entry,
    Opened,
    OutboxError,
    OutboxFull,
    State,
    codes_of,
    commit_of,
)
from flexspec_mq import waiting
from flexspec_mq.daemon.files import sync
from flexspec_mq.protocol.effects import Commit

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
_KNOWN = (
    "id", "key", "digest", "path", "client", "choice", "mode", "accepted", "state", "life", "finished", "read", "error",
)  # fmt: skip
_ENTRY = """SELECT id, key, digest, path, client, choice, mode, accepted, state, life, finished, read, error, opened,
body, (SELECT ifnull(sum(length(origins)), 0) FROM tokens WHERE request = number) FROM requests """
_BYTES = """SELECT count(*), ifnull(sum(length(body) + ifnull(length(opened), 0) + ifnull(length(answer), 0)), 0)
FROM requests"""
_WAL = 2**20
"""Bytes to which the write-ahead log shrinks whenever it begins anew."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that an outbox holds. Over it the oldest finished texts go first, then nothing more is taken.

    Attributes:
        texts: requests, finished or not.
        size: bytes of requests and answers.
        keep: seconds that a finished text is kept.
    """

    texts: int = 512
    size: int = 64 * 2**20
    keep: float = 86_400.0


class Journal:
    """The outbox of one node. All calls come from one thread at a time; each is one transaction.

    Args:
        path: the file, whose folder is made; None keeps all in memory, and forgets it at the end.
        bounds: how much it holds.
        clock: seconds since the Unix epoch.

    Raises:
        OutboxError: another process has the file, a newer program wrote it, or it cannot be written.
    """

    def __init__(
        self, path: Path | None, bounds: Bounds | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._bounds = bounds or Bounds()
        self._clock = clock
        with _told(path):
            try:
                self._file = _opened(path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                assert path is not None  # noqa: S101  memory is never damaged
                _put_aside(path, error)
                self._file = _opened(path)

    def close(self) -> None:
        """Close the file; what the write-ahead log holds goes into it."""
        with _told(self.path):
            self._file.close()

    # What is there

    def entries(self) -> list[Entry]:
        """All requests, in the order in which they were accepted."""
        return self._entries("ORDER BY number")

    def counts(self) -> dict[str, int]:
        """Number of requests in each state that there is; answers that nobody has read are ``unread``."""
        return dict(
            self._all(
                "SELECT iif(state = 'done' AND NOT read, 'unread', state), count(*) FROM requests GROUP BY 1"
            )
        )

    def entry(self, name: str) -> Entry | None:
        """The request with this id."""
        return next(iter(self._entries("WHERE id = ?", name)), None)

    def under(self, key: str) -> Entry | None:
        """The request with this key, unless its answer is too old."""
        with self._transaction():
            self._drop_old()
        return next(iter(self._entries("WHERE key = ?", key)), None)

    def committed(self, name: str) -> list[Commit]:
        """The committed tokens of an unfinished text, from the first one on without a gap."""
        at, commits = 0, []
        for start, tokens, codes in self._all(
            "SELECT start, tokens, origins FROM tokens JOIN requests ON request = number WHERE id = ? "
            "ORDER BY start",
            name,
        ):
            if start != at or len(tokens) != 4 * len(codes):
                break
            commits.append(commit_of(start, _unpacked(tokens), codes))
            at += len(codes)
        return commits

    def answer(self, name: str) -> bytes:
        """The answer of a text that is done; empty without one."""
        found = self._all("SELECT answer FROM requests WHERE id = ?", name)
        return (found and found[0][0]) or b""

    # What happens

    def begin(self) -> list[Entry]:
        """Begin another life of all unfinished texts, before anything of them is sent; returns them in order."""
        with self._transaction():
            self._drop_old()
            self._run("UPDATE requests SET life = life + 1 WHERE finished IS NULL")
            self._run(
                "UPDATE requests SET state = 'failed', error = ?, finished = ? WHERE life >= ? AND finished IS NULL",
                f"the node was started {LIVES} times while this text was unfinished",
                self._clock(),
                LIVES,
            )
        return [entry for entry in self.entries() if entry.unfinished]

    def accept(self, entry: Entry) -> None:
        """Take a request; one that failed under the same key goes.

        Raises:
            OutboxFull: there is no room, and nothing finished to make some.
            OutboxError: it cannot be written.
        """
        with self._transaction():
            self._run("DELETE FROM requests WHERE key = ? AND state = 'failed'", entry.key)
            self._drop_old()
            if not self._fits(1, len(entry.body)):
                raise OutboxFull(
                    f"the outbox holds {self._bounds.texts} requests or {self._bounds.size >> 20} MB, as much as it "
                    "may, and none of them is finished",
                    hint="`flexspec-edge outbox` lists them, `flexspec-edge outbox drop ID` makes room",
                )
            self._run(
                "INSERT INTO requests(id, key, digest, path, client, choice, mode, accepted, body) "
                "VALUES(?,?,?,?,?,?,?,?,?)",
                entry.id,
                entry.key,
                entry.digest,
                entry.path,
                entry.client,
                entry.choice,
                entry.mode,
                entry.accepted,
                entry.body,
            )

    def open(self, name: str, opened: Opened) -> None:
        """Note the session of a text, unless that was dropped meanwhile; tokens of an earlier session go."""
        with self._transaction():
            for number in self._number(name):
                before = self._all("SELECT opened FROM requests WHERE number = ?", number)[0][0]
                if before is None or msgspec.json.decode(before, type=Opened).session != opened.session:
                    self._run("DELETE FROM tokens WHERE request = ?", number)
                self._run(
                    "UPDATE requests SET opened = ? WHERE number = ?", msgspec.json.encode(opened), number
                )

    def commit(self, commits: Mapping[str, Sequence[Commit]]) -> None:
        """Add committed tokens of texts that have a session in the file; those of texts that are over are left out."""
        with self._transaction():
            for name, added in commits.items():
                for (number,) in self._all(
                    "SELECT number FROM requests WHERE id = ? AND finished IS NULL AND opened IS NOT NULL",
                    name,
                ):
                    start = added[0].start
                    tokens = b"".join(_packed(commit.tokens) for commit in added)
                    codes = b"".join(map(codes_of, added))
                    # Those behind a gap, which a full disk has left, come anew.
                    self._run("DELETE FROM tokens WHERE request = ? AND start >= ?", number, start)
                    self._run("INSERT INTO tokens VALUES(?,?,?,?)", number, start, tokens, codes)
                    self._run("UPDATE requests SET state = 'writing' WHERE number = ?", number)

    def finish(self, name: str, answer: bytes = b"", error: str = "") -> None:
        """End a text by its answer or by an error; its session goes, and older answers where there is no room."""
        state: State = "failed" if error else "done"
        with self._transaction():
            for number in self._number(name):
                self._run("DELETE FROM tokens WHERE request = ?", number)
                self._run(
                    "UPDATE requests SET state = ?, answer = ?, error = ?, finished = ?, opened = NULL "
                    "WHERE number = ?",
                    state,
                    answer or None,
                    error,
                    self._clock(),
                    number,
                )
                self._fits(0, 0)

    def park(self, name: str, why: str = "") -> None:
        """Have a text wait until its user wants it still."""
        with self._transaction():
            self._run("UPDATE requests SET state = 'stale', error = ? WHERE id = ?", why, name)

    def unpark(self, name: str) -> Entry:
        """Queue a text that has waited for its user, in another life and as if it was accepted now."""
        with self._transaction():
            self._run(
                "UPDATE requests SET state = 'queued', error = '', life = life + 1, accepted = ? WHERE id = ?",
                self._clock(),
                name,
            )
        return self._entries("WHERE id = ?", name)[0]

    def set_read(self, name: str) -> None:
        """Note that the answer was read to its end."""
        with self._transaction():
            self._run("UPDATE requests SET read = 1 WHERE id = ?", name)

    def forget(self, name: str) -> bool:
        """Delete a request with all that is known of its text; whether there was one."""
        with self._transaction():
            there = self._run("DELETE FROM requests WHERE id = ?", name).rowcount > 0
        self._empty_log()
        return there

    def sweep(self) -> None:
        """Delete answers that are too old, and what the log still has of all that was deleted."""
        with self._transaction():
            self._drop_old()
        self._empty_log()

    # How it is done

    def _empty_log(self) -> None:
        with _told(self.path):
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _drop_old(self) -> None:
        self._run("DELETE FROM requests WHERE finished < ?", self._clock() - self._bounds.keep)

    def _fits(self, more: int, size: int) -> bool:
        """Drop the oldest finished texts until so many more fit; False where that does not suffice."""
        while True:
            count, held = self._all(_BYTES)[0]
            if count + more <= self._bounds.texts and held + size <= self._bounds.size:
                return True
            dropped = self._run(
                "DELETE FROM requests WHERE number = (SELECT number FROM requests WHERE finished IS NOT NULL "
                "ORDER BY finished, number LIMIT 1)"
            )
            if not dropped.rowcount:
                return False

    def _number(self, name: str) -> Sequence[int]:
        return [number for (number,) in self._all("SELECT number FROM requests WHERE id = ?", name)]

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return [_entry(row) for row in self._all(_ENTRY + where, *values)]

    def _all(self, statement: str, *values: object) -> list[Any]:
        with _told(self.path):
            return self._file.execute(statement, values).fetchall()

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._file.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when the block has ended."""
        with _told(self.path):
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                    self._run("ROLLBACK")
                raise


def _opened(path: Path | None) -> sqlite3.Connection:
    """Open the file, or make it.

    Raises:
        OutboxError: a newer program wrote it.
        sqlite3.OperationalError: another process has it, or it cannot be read or written.
        sqlite3.DatabaseError: it is damaged.
    """
    new = path is not None and not path.exists()
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    file = sqlite3.connect(
        path or ":memory:", timeout=waiting.OUTBOX_LOCKED, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (
            "synchronous = EXTRA",
            "locking_mode = EXCLUSIVE",  # no other process, and no file of memory shared with one
            f"journal_size_limit = {_WAL}",
            "secure_delete = ON",
            "foreign_keys = ON",
        ):
            file.execute(f"PRAGMA {pragma}")
        _check(file, path)
    except BaseException:
        file.close()
        raise
    if new and path is not None:
        sync(path.parent)
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


def _put_aside(path: Path, why: Exception) -> None:
    """Move a damaged file away, over the last one that was."""
    aside = path.with_name(f"{path.name}.damaged")
    _log.error("the outbox in %s is damaged (%s): it is now %s, and an empty one begins", path, why, aside)
    for end in ("", "-wal"):
        aside.with_name(aside.name + end).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(aside.with_name(aside.name + end))


@contextmanager
def _told(path: Path | None) -> Iterator[None]:
    """Errors of SQLite and of the file system as ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if "locked" in str(error):
            raise OutboxError(
                f"another program has the outbox in {path}",
                hint="is a node of this name running? its --api-port says where; two need names (--edge) of their own",
            ) from error
        raise OutboxError(
            f"the outbox in {path or 'memory'} cannot be used: {error}",
            hint="is the disk full, or the folder not writable? --state-dir names another, outbox = false does without",
        ) from error


def _entry(row: Sequence[Any]) -> Entry:
    *columns, opened, body, tokens = row
    known = dict(zip(_KNOWN, columns, strict=True))
    return Entry(
        **{**known, "read": bool(known["read"])},
        opened=None if opened is None else msgspec.json.decode(opened, type=Opened),
        body=body,
        tokens=tokens,
    )


def _packed(tokens: Sequence[int]) -> bytes:
    ids = array("I", tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def _unpacked(data: bytes) -> tuple[int, ...]:
    ids = array("I")
    ids.frombytes(data)
    if sys.byteorder == "big":
        ids.byteswap()
    return tuple(ids)
