"""The outbox on disk: one SQLite file, in which a call that has returned survives kill and power cut. Synchronous.

WAL with a sync at each commit, but for what can be lost because it comes again: sessions, later tokens of a text, and
that an answer was read, survive kill at once, and a power cut from the next sync on.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_node.outbox.clock import Clock
from edge_node.outbox.entries import (
    LIVES,
    Entry,
    NoRoom,
    Opened,
    OutboxFull,
    State,
    codes_of,
    commit_of,
)
from edge_node.outbox.file import dropped_in, mark_of, open_file, put_aside, told
from flexspec_mq.daemon.files import sync
from flexspec_mq.protocol.effects import Commit

_KNOWN = (
    "id", "key", "digest", "path", "client", "choice", "mode", "accepted", "state", "life", "finished", "read", "error",
)  # fmt: skip
_ENTRY = """SELECT id, key, digest, path, client, choice, mode, accepted, state, life, finished, read, error, opened,
body, (SELECT ifnull(sum(length(origins)), 0) FROM tokens WHERE request = number) FROM requests
WHERE NOT dropped(id) AND {where} ORDER BY number"""
_BYTES = """SELECT count(*), ifnull(sum(length(body) + ifnull(length(opened), 0) + ifnull(length(answer), 0)), 0)
FROM requests"""
_CLOCK = """CREATE TABLE IF NOT EXISTS clock(
  one INTEGER PRIMARY KEY, boot TEXT NOT NULL, ahead REAL NOT NULL, seen REAL NOT NULL
)"""
"""Its one row: the boot in which the file was used last, by how much the file's time was ahead of the time since that,
and the newest time."""
_STEP = 1.0
"""Seconds by which a clock differs that was set, and does not only run a little faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that an outbox holds. Over it the oldest read answers and then failures go, then nothing more is taken.

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

    On a full disk requests can be read and dropped, and all else raises `NoRoom`. Where there was no room to make the
    file it is empty, and made by the first call that finds some.

    Args:
        path: the file, whose folder is made; None keeps all in memory, and forgets it at the end.
        bounds: how much it holds.
        clock: clocks of the machine.

    Raises:
        OutboxError: another process has the file, a newer program wrote it, or it cannot be written.
    """

    def __init__(self, path: Path | None, bounds: Bounds | None = None, clock: Clock | None = None) -> None:
        self.path = path
        self._bounds = bounds or Bounds()
        self._clock = clock or Clock()
        self._ahead = self._clock.wall() - self._clock.up()
        self._same_boot = False  # as when the file was used last
        self._file: sqlite3.Connection | None = None
        self._dropped = dropped_in(path)
        with suppress(NoRoom):
            self._open()

    def close(self) -> None:
        """Close the file; what the write-ahead log holds goes into it."""
        with told(self.path):
            if self._file is not None:
                self._file.close()

    def now(self) -> float:
        """The time of the file: seconds since the Unix epoch, by a clock that is not set while the file is open."""
        return self._clock.up() + self._ahead

    # What is there

    def entries(self) -> list[Entry]:
        """All requests, in the order in which they were accepted."""
        return self._entries("TRUE")

    def counts(self) -> dict[str, int]:
        """Number of requests in each state that there is; answers that nobody has read are ``unread``."""
        return dict(
            self._all(
                "SELECT iif(state = 'done' AND NOT read, 'unread', state), count(*) FROM requests "
                "WHERE NOT dropped(id) GROUP BY 1"
            )
        )

    def entry(self, name: str) -> Entry | None:
        """The request with this id."""
        return next(iter(self._entries("id = ?", name)), None)

    def under(self, key: str) -> Entry | None:
        """The request with this key, unless its answer is too old."""
        oldest = self.now() - self._bounds.keep
        return next(iter(self._entries("key = ? AND ifnull(finished >= ?, TRUE)", key, oldest)), None)

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
        self._tidy()
        with self._transaction():
            self._run("UPDATE requests SET life = life + 1 WHERE finished IS NULL")
            self._run(
                "UPDATE requests SET state = 'failed', error = ?, finished = ? WHERE life >= ? AND finished IS NULL",
                f"the node was started {LIVES} times while this text was unfinished",
                self.now(),
                LIVES,
            )
        return [entry for entry in self.entries() if entry.unfinished]

    def accept(self, entry: Entry) -> None:
        """Take a request; one that failed under the same key goes.

        Raises:
            OutboxFull: it holds as much as it may, and nothing that was read.
            OutboxError: it cannot be written.
        """
        with self._transaction():
            self._run("DELETE FROM requests WHERE key = ? AND state = 'failed'", entry.key)
            self._drop_old()
            if not self._fits(1, len(entry.body)):
                raise OutboxFull(
                    f"the outbox holds {self._bounds.texts} requests or {self._bounds.size >> 20} MB, as much as it "
                    "may, and nobody has read their answers",
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

    def rewrite(self, name: str, body: bytes) -> None:
        """Keep a request in another form."""
        with self._transaction():
            self._run("UPDATE requests SET body = ? WHERE id = ?", body, name)

    def open(self, name: str, opened: Opened, *, promised: bool = True) -> None:
        """Note the session of a text, unless that was dropped meanwhile; tokens of an earlier session go.

        Args:
            name: id of the text.
            opened: values of its session.
            promised: whether it survives a power cut from now on, and not from the next promise on.
        """
        with self._transaction(promised=promised):
            for number in self._number(name):
                before = self._all("SELECT opened FROM requests WHERE number = ?", number)[0][0]
                if before is None or Opened.read(before).session != opened.session:
                    self._run("DELETE FROM tokens WHERE request = ?", number)
                self._run(
                    "UPDATE requests SET opened = ? WHERE number = ?", msgspec.json.encode(opened), number
                )

    def commit(self, commits: Mapping[str, Sequence[Commit]], *, promised: bool = True) -> None:
        """Add committed tokens of texts that have a session in the file; those of texts that are over are left out.

        Args:
            commits: tokens, by ids of texts.
            promised: whether they survive a power cut from now on, and not from the next promise on.
        """
        with self._transaction(promised=promised):
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
        """End a text by its answer or by an error; its session goes, and what others read where there is no room."""
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
                    self.now(),
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
                self.now(),
                name,
            )
        return self._entries("id = ?", name)[0]

    def set_read(self, name: str) -> None:
        """Note that the answer was read to its end; a power cut may take it back."""
        with self._transaction(promised=False):
            self._run("UPDATE requests SET read = 1 WHERE id = ?", name)

    def forget(self, name: str) -> bool:
        """Delete a request with all that is known of its text; whether there was one."""
        try:
            with self._transaction():
                there = self._run("DELETE FROM requests WHERE id = ?", name).rowcount > 0
        except NoRoom:
            there = self.entry(name) is not None
            if there and self.path is not None:
                with told(self.path):
                    mark_of(self.path, name).touch(0o600)
                    sync(self.path.parent)
                self._dropped.add(name)
            return there
        self._empty_log()
        return there

    def sweep(self) -> None:
        """Delete answers that are too old, and what the log still has of all that was deleted."""
        if self._all("SELECT 1 FROM requests LIMIT 1"):
            self._tidy()

    # How it is done

    def _open(self) -> None:
        with told(self.path):
            try:
                self._file = open_file(self.path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                assert self.path is not None  # noqa: S101  memory is never damaged
                put_aside(self.path, error)
                self._file = open_file(self.path)
            self._file.create_function("dropped", 1, self._dropped.__contains__)
        self._recall_clock()
        with suppress(NoRoom):
            self._follow_clock()

    def _recall_clock(self) -> None:
        """Let the file's time go on: through this boot as that did, and behind another one from its newest time."""
        there = self._all("SELECT 1 FROM sqlite_master WHERE name = 'clock'")
        rows = self._all("SELECT boot, ahead, seen FROM clock") if there else []
        boot, ahead, seen = rows[0] if rows else ("", 0.0, 0.0)
        ((finished,),) = self._all("SELECT max(finished) FROM requests")
        self._same_boot = boot == self._clock.boot != ""
        if self._same_boot:
            self._ahead = ahead
        elif newest := max(seen, finished or 0.0):
            self._ahead = newest - self._clock.up()

    def _follow_clock(self) -> None:
        """Set the times in the file as the machine's clock was set, so that no age jumps.

        Nobody knows for how long the machine was off. Answers are not older for that; unfinished requests are as old as
        the clock says, which may have their users asked once too often.
        """
        jump = self._clock.wall() - self.now()
        if abs(jump) < _STEP:
            jump = 0.0
        with self._transaction(promised=False):
            self._run(_CLOCK)
            if jump:
                known = jump if self._same_boot else 0.0
                self._run("UPDATE requests SET finished = finished + ?, accepted = accepted + ?", jump, known)
            clock = self._clock.boot, self._ahead + jump, self.now() + jump
            self._run("REPLACE INTO clock VALUES(1, ?, ?, ?)", *clock)
        self._ahead, self._same_boot = self._ahead + jump, True

    def _tidy(self) -> None:
        with self._transaction():
            self._drop_old()
        for name in self._dropped:
            assert self.path is not None  # noqa: S101  see forget()
            mark_of(self.path, name).unlink(missing_ok=True)
        self._dropped.clear()
        self._empty_log()

    def _empty_log(self) -> None:
        """Cut off the log, and begin it anew at once, which is a sync that the next request need not wait for."""
        with suppress(NoRoom), told(self.path):
            self._run("PRAGMA wal_checkpoint(TRUNCATE)")
            self._follow_clock()

    def _drop_old(self) -> None:
        self._run("DELETE FROM requests WHERE finished < ? OR dropped(id)", self.now() - self._bounds.keep)

    def _fits(self, more: int, size: int) -> bool:
        """Drop read answers, then failures, the oldest first, until so many more fit; False where that does not do."""
        while True:
            count, held = self._all(_BYTES)[0]
            if count + more <= self._bounds.texts and held + size <= self._bounds.size:
                return True
            dropped = self._run(
                "DELETE FROM requests WHERE number = (SELECT number FROM requests WHERE finished IS NOT NULL "
                "AND (read OR state = 'failed') ORDER BY read DESC, finished, number LIMIT 1)"
            )
            if not dropped.rowcount:
                return False

    def _number(self, name: str) -> Sequence[int]:
        return [number for (number,) in self._all("SELECT number FROM requests WHERE id = ?", name)]

    def _entries(self, where: str, *values: object) -> list[Entry]:
        return [_entry(row) for row in self._all(_ENTRY.format(where=where), *values)]

    def _all(self, statement: str, *values: object) -> list[Any]:
        if self._file is None:
            return []
        with told(self.path):
            return self._run(statement, *values).fetchall()

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        assert self._file is not None  # noqa: S101  each transaction sees to it
        return self._file.execute(statement, values)

    @contextmanager
    def _transaction(self, *, promised: bool = True) -> Iterator[None]:
        """All or nothing; where it is promised, on the disk when the block has ended, with all that went before."""
        if self._file is None:
            self._open()
        with told(self.path):
            self._run(f"PRAGMA synchronous = {'EXTRA' if promised else 'NORMAL'}")
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                    self._run("ROLLBACK")
                raise


def _entry(row: Sequence[Any]) -> Entry:
    *columns, opened, body, tokens = row
    known = dict(zip(_KNOWN, columns, strict=True))
    return Entry(
        **{**known, "read": bool(known["read"])},
        opened=None if opened is None else Opened.read(opened),
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
