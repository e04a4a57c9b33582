"""The outbox on disk: one SQLite file, in which a call that has returned survives kill and power cut. Synchronous.

WAL with a sync at each commit, but for what can be lost because it comes again: sessions, later tokens of a text, and
that an answer was read, survive kill at once, and a power cut from the next sync on. So that little is written, pages
have 512 bytes, and the one table has no index and rows that are added and deleted, and never changed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from edge_node.outbox import file as files
from edge_node.outbox import format_1
from edge_node.outbox.clock import Clock
from edge_node.outbox.entries import STARTS, Entry, NoRoom, Opening, OutboxError, OutboxFull, packed, unpacked
from edge_node.outbox.file import Damaged, told
from edge_node.outbox.records import Kind, Piece, RecordPart, cut, found, joined
from edge_node.outbox.texts import REQUEST_FIELDS, STATUS_FIELDS, PersistedText, fields_of
from flexspec_mq.daemon.files import sync
from flexspec_mq.protocol.effects import Commit

_LAST = 2**62
_LOG = 448 * 2**10
"""Bytes of the log beyond which it goes into the file."""
_STEP = 1.0
"""Seconds by which a clock differs that was set, and does not only run a little faster."""
_DAMAGED = "the disk has damaged what the outbox had of it: ask again"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that an outbox holds. Over it the oldest read answers and then failures go, then nothing more is taken.

    Attributes:
        texts: requests, finished or not.
        size: bytes of requests and answers.
        retention: seconds that a finished text stays.
    """

    texts: int = 512
    size: int = 64 * 2**20
    retention: float = 86_400.0


class Journal:
    """The outbox of one node. All calls come from one thread at a time; each is one transaction.

    On a full disk requests can be read and dropped, and all else raises `NoRoom`. Where there was no room to make the
    file it is empty, and made by the first call that finds some. Damage of the file or of its log is logged when it is
    opened, and costs the texts alone whose rows it hit: they fail, or are named in the log where nothing else is left.

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
        # Boot in which the file was used last, how far it was ahead, and its newest time.
        self._said = "", 0.0, 0.0
        self._same_boot = False  # as then
        self._file: sqlite3.Connection | None = None
        self._texts: dict[str, PersistedText] = {}
        self._number = self._sealed = 0  # of the newest row, and of the newest one that is surely on the disk
        self._clock_at = range(0)
        self._left = set[int]()  # rows of no use
        self._lost = list[str]()  # names of requests that are damaged
        self._dropped = files.dropped_in(path)
        with suppress(NoRoom):
            self._open()

    def close(self) -> None:
        """Close the file; what the write-ahead log holds goes into it."""
        with told(self.path):
            self._shut()

    def now(self) -> float:
        """The time of the file: seconds since the Unix epoch, by a clock that is not set while the file is open."""
        return self._clock.up() + self._ahead

    # What is there

    def entries(self) -> list[Entry]:
        """All requests, in the order in which they were accepted."""
        return [self._entry(text) for text in self._there()]

    def counts(self) -> dict[str, int]:
        """Number of requests in each state that there is; answers that nobody has read are ``unread``."""
        unread = "done", False
        return Counter(
            "unread" if (text.state, text.entry.read) == unread else text.state for text in self._there()
        )

    def entry(self, name: str) -> Entry | None:
        """The request with this id."""
        return next((self._entry(text) for text in self._there() if text.entry.id == name), None)

    def under(self, key: str) -> Entry | None:
        """The request with this key, unless its answer is too old."""
        found = (text for text in self._there() if text.entry.key == key and not self._goes(text))
        return next(map(self._entry, found), None)

    def committed(self, name: str) -> list[Commit]:
        """The committed tokens of an unfinished text, from the first one on without a gap."""
        text = self._texts.get(name)
        return [] if text is None else [unpacked(self._read(text, place)) for place in text.run]

    def answer(self, name: str) -> bytes:
        """The answer of a text that is done; empty without one."""
        text = self._texts.get(name)
        return b"" if text is None else self._read(text, Kind.ANSWER)

    # What happens

    def begin(self) -> list[Entry]:
        """Begin another incarnation of all unfinished texts, before anything of them is sent; returns them in order."""
        self._tidy()
        with suppress(NoRoom), told(self.path):
            files.compact(self._connection())
        error = f"the node was started {STARTS} times while this text was unfinished"
        with self._transaction():
            for text in filter(_is_unfinished, self._texts.values()):
                self._restart(text)
                if text.entry.restarts >= STARTS:
                    self._end(text, error=error)
        self._empty_log()
        return [entry for entry in self.entries() if entry.unfinished]

    def accept(self, entry: Entry) -> None:
        """Take a request; one that failed under the same key goes.

        Raises:
            OutboxFull: it holds as much as it may, and nothing that was read.
            OutboxError: it cannot be written.
        """
        again = entry.key, "failed"
        gone = [
            text
            for text in self._texts.values()
            if (text.entry.key, text.entry.state) == again or self._goes(text)
        ]
        if not self._fits(gone, 1, len(entry.body)):
            raise OutboxFull(
                f"the outbox holds {self._bounds.texts} requests or {self._bounds.size >> 20} MB, as much as it "
                "may, and nobody has read their answers",
                hint="`flexspec-edge outbox` lists them, `flexspec-edge outbox drop ID` makes room",
            )
        with self._transaction():
            for text in gone:
                self._delete(text)
            self._add(entry)

    def rewrite(self, name: str, body: bytes) -> None:
        """Persist a request in another form."""
        with self._transaction():
            if (text := self._texts.get(name)) is not None:
                self._put(text, Kind.BODY, name.encode() + b"\n" + body)

    def open(self, name: str, opened: Opening, *, promised: bool = True) -> None:
        """Note the session of a text, unless that was dropped meanwhile; tokens of an earlier session go.

        Args:
            name: id of the text.
            opened: values of its session.
            promised: whether it survives a power cut from now on, and not from the next promise on.
        """
        with self._transaction(promised=promised):
            if (text := self._texts.get(name)) is not None and text.entry.unfinished:
                self._set_session(text, opened)

    def commit(self, commits: Mapping[str, Sequence[Commit]], *, promised: bool = True) -> None:
        """Add committed tokens of texts that have a session in the file; those of texts that are over are left out.

        Args:
            commits: tokens, by ids of texts.
            promised: whether they survive a power cut from now on, and not from the next promise on.
        """
        with self._transaction(promised=promised):
            for name, added in commits.items():
                if (text := self._texts.get(name)) is not None and text.entry.opened is not None:
                    self._drop_tokens(text, added[0].start)  # those behind a gap come anew
                    self._put(text, Kind.TOKENS, packed(added))

    def finish(self, name: str, answer: bytes = b"", error: str = "") -> None:
        """End a text by its answer or by an error; its session goes, and what others read where there is no room."""
        with self._transaction():
            if (text := self._texts.get(name)) is not None:
                self._end(text, answer, error)
                gone: list[PersistedText] = []
                self._fits(gone, 0, 0)
                for each in gone:
                    self._delete(each)

    def park(self, name: str, why: str = "") -> None:
        """Have a text wait until its user wants it still."""
        with self._transaction():
            if (text := self._texts.get(name)) is not None and text.entry.unfinished:
                self._set_status(text, state="stale", error=why)

    def unpark(self, name: str) -> Entry:
        """Queue a text that has waited for its user, in another incarnation and as if it was accepted now."""
        text = self._texts[name]
        if text.entry.unfinished:
            with self._transaction():
                self._restart(text, state="queued", error="", accepted=self.now())
            self._empty_log()
        return self._entry(text)

    def set_read(self, name: str) -> None:
        """Note that the answer was read to its end; a power cut may take it back."""
        with self._transaction(promised=False):
            if (text := self._texts.get(name)) is not None:
                self._set_status(text, read=True)

    def forget(self, name: str) -> bool:
        """Delete a request with all that is known of its text; whether there was one."""
        text = next((text for text in self._there() if text.entry.id == name), None)
        if text is None:
            return False
        try:
            with self._transaction():
                self._delete(text)
        except NoRoom:
            if self.path is not None:
                with told(self.path):
                    files.mark_of(self.path, name).touch(0o600)
                    sync(self.path.parent)
                self._dropped.add(name)
        else:
            self._empty_log()
        return True

    def sweep(self) -> None:
        """Delete answers that are too old, and what the log still has of all that was deleted."""
        if self._texts:
            self._tidy()

    # Its texts

    def _there(self) -> Iterator[PersistedText]:
        return (text for name, text in self._texts.items() if name not in self._dropped)

    def _entry(self, text: PersistedText) -> Entry:
        body = b""
        try:
            body = self._read(text, Kind.BODY).partition(b"\n")[2]
        except OutboxError as error:
            _log.error("text %s: %s", text.entry.id, error)
        tokens = sum(text.sizes[place] for place in text.run)
        return replace(text.entry, body=body, state=text.state, tokens=tokens)

    def _goes(self, text: PersistedText) -> bool:
        finished = text.entry.finished
        old = finished is not None and finished < self.now() - self._bounds.retention
        return old or text.entry.id in self._dropped

    def _fits(self, gone: list[PersistedText], more: int, size: int) -> bool:
        """Add to those that go read answers, then failures, the oldest first, until so many more fit, if they do."""
        left = [text for text in self._texts.values() if text not in gone]
        spare = [
            text for text in left if text.state == "failed" or (text.state == "done" and text.entry.read)
        ]
        spare.sort(key=lambda text: (text.entry.read, -(text.entry.finished or 0.0), -text.number))
        count, held = len(left) + more, sum(text.size for text in left) + size
        while count > self._bounds.texts or held > self._bounds.size:
            if not spare:
                return False
            gone.append(spare.pop())
            count, held = count - 1, held - gone[-1].size
        return True

    def _add(self, entry: Entry) -> PersistedText:
        text = self._texts[entry.id] = PersistedText(self._number + 1)
        self._put(text, Kind.REQUEST, fields_of(entry, REQUEST_FIELDS))
        self._put(text, Kind.BODY, entry.id.encode() + b"\n" + entry.body)
        return text

    def _set_status(self, text: PersistedText, **known: object) -> None:
        self._put(text, Kind.STATUS, fields_of(replace(text.entry, **known), STATUS_FIELDS))  # type: ignore[arg-type]

    def _restart(self, text: PersistedText, **known: object) -> None:
        """Begin a text's next incarnation; its session says so too, as no counter may begin again if a row is lost."""
        self._set_status(text, **known, restarts=text.entry.restarts + 1)
        if text.entry.opened is not None:
            self._set_session(text, text.entry.opened)

    def _set_session(self, text: PersistedText, opened: Opening) -> None:
        before, since = text.entry.opened, text.since
        if before is None or before.session != opened.session:
            since = self._number + 1
            self._drop_tokens(text, 0)
        self._put(text, Kind.SESSION, msgspec.msgpack.encode((since, text.entry.restarts, opened)))

    def _drop_tokens(self, text: PersistedText, start: int) -> None:
        for place in text.places:
            if place >= start:
                self._remove(text.parts.pop(place))

    def _end(self, text: PersistedText, answer: bytes = b"", error: str = "") -> None:
        self._drop_tokens(text, 0)
        for kind in (Kind.SESSION, Kind.ANSWER):
            self._remove(text.parts.pop(kind, range(0)))
        text.entry = replace(text.entry, opened=None)
        state = "failed" if error else "done"
        self._set_status(text, state=state, error=error, finished=self.now())
        if answer or not error:
            self._put(text, Kind.ANSWER, answer)

    def _delete(self, text: PersistedText) -> None:
        for numbers in text.parts.values():
            self._remove(numbers)
        del self._texts[text.entry.id]

    # Its rows

    def _put(self, text: PersistedText, kind: bytes, data: bytes) -> None:
        """Persist a part of a text, in place of the one that is there; of tokens, all."""
        before = text.parts.get(kind, range(0))
        text.take(RecordPart(kind, text.number, self._insert(kind, text.number, data), data))
        self._remove(before)

    def _insert(self, kind: bytes, text: int, data: bytes) -> range:
        pieces = cut(kind, text, data, self._number + 1, self._sealed)
        self._number = pieces[-1].number
        rows = [(piece.number, piece.pack()) for piece in pieces]
        self._connection().executemany("INSERT INTO records VALUES(?, ?)", rows)
        return range(pieces[0].number, self._number + 1)

    def _remove(self, numbers: range) -> None:
        if numbers:
            self._run("DELETE FROM records WHERE number BETWEEN ? AND ?", numbers[0], numbers[-1])

    def _read(self, text: PersistedText, key: bytes | int) -> bytes:
        if not (numbers := text.parts.get(key)):
            return b""
        with told(self.path):
            for part in joined(self._pieces(numbers[0], numbers[-1])):
                if part.data is not None:
                    return part.data
            raise Damaged(f"rows {numbers[0]} to {numbers[-1]} are not as they were written")

    def _pieces(self, first: int, last: int) -> Iterator[Piece]:
        """Rows with these numbers.

        Raises:
            Damaged: one of them is not as it was written.
        """
        for number, record in self._run("SELECT * FROM records WHERE number BETWEEN ? AND ?", first, last):
            piece = next(found(record), None) if isinstance(record, bytes) else None
            if piece is None or piece.number != number:
                raise Damaged(f"row {number} is not as it was written")
            self._number, self._sealed = max(self._number, number), max(self._sealed, piece.sealed)
            yield piece

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._connection().execute(statement, values)

    def _connection(self) -> sqlite3.Connection:
        assert self._file is not None  # noqa: S101  each transaction sees to it
        return self._file

    @contextmanager
    def _transaction(self, *, promised: bool = True) -> Iterator[None]:
        """All or nothing; where it is promised, on the disk when the block has ended, with all that went before."""
        if self._file is None:
            self._open()
        file, before = self._connection(), self._number
        changes = file.total_changes
        with told(self.path):
            file.execute(f"PRAGMA synchronous = {'EXTRA' if promised else 'NORMAL'}")
            file.execute("BEGIN IMMEDIATE")
            try:
                yield
                if self._number == before and file.total_changes != changes:
                    self._put_clock(*self._said)  # so that the newest row is of the newest change
                file.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                    file.execute("ROLLBACK")
                with suppress(sqlite3.Error):  # an earlier format's, of a disk too full to convert it
                    self._load()
                raise
        if self.path is not None:
            if promised and self._number != before:
                self._sealed = self._number
            if files.seal(self.path, self._sealed) > _LOG:
                self._empty_log()

    def _tidy(self) -> None:
        with self._transaction():
            for text in [text for text in self._texts.values() if self._goes(text)]:
                self._delete(text)
        for name in self._dropped:
            assert self.path is not None  # noqa: S101  see forget()
            files.mark_of(self.path, name).unlink(missing_ok=True)
        self._dropped.clear()
        self._empty_log()

    def _empty_log(self) -> None:
        """Cut off the log, and begin it anew at once, which is a sync that the next request need not wait for."""
        with suppress(NoRoom), told(self.path):
            self._run("PRAGMA wal_checkpoint(TRUNCATE)")
            self._follow_clock()

    # Its file

    def _open(self) -> None:
        try:
            with told(self.path):
                try:
                    old = self._take()
                except sqlite3.Error as error:
                    if self.path is None or not files.is_damage(error):
                        raise
                    files.make_anew(self.path, error)
                    self._shut()  # not before: SQLite deletes the log, which is aside by now
                    old = self._take()
            self._recall_clock(
                [text.entry for text in self._texts.values()] + [entry for entry, _, _ in old or ()]
            )
            if old is not None:
                self._convert(old)
            self._mend()
        except BaseException:
            self._shut()
            raise
        with suppress(NoRoom):
            self._follow_clock()

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._texts = None, {}

    def _take(self) -> list[format_1.Old] | None:
        """Open the file and read what it has; returns that of an earlier format.

        Raises:
            sqlite3.DatabaseError: it is damaged.
        """
        self._file, self._sealed = files.connect(self.path), 0
        files.check(self._file, self.path)
        if (old := format_1.read(self._file)) is not None:
            self._said, texts = old
            return texts
        self._load()
        if self.path is not None:
            self._sealed = max([self._sealed, *(piece.sealed for piece in files.pieces_in_log(self.path))])
        if self._sealed > self._number:
            raise Damaged(f"its log ends before row {self._sealed}")
        return None

    def _load(self) -> None:
        """Know what the rows say; those of no use, which only a damaged file has, are left over."""
        there, self._left = dict[int, PersistedText](), set[int]()
        for part in joined(self._pieces(0, _LAST)):
            self._left.update(part.numbers)
            if part.kind == Kind.CLOCK and part.data is not None:
                self._clock_at = part.numbers
                self._said = msgspec.msgpack.decode(part.data, type=tuple[str, float, float])
            elif part.kind != Kind.CLOCK:
                there.setdefault(part.text, PersistedText(part.text)).take(part)
        for text in there.values():
            text.settle()
        known = sorted(
            (text for text in there.values() if Kind.REQUEST in text.parts), key=lambda text: text.number
        )
        self._lost = [
            text.entry.id or f"number {text.number}" for text in there.values() if text not in known
        ]
        newest = {text.entry.key: text for text in known}
        self._texts = {text.entry.id: text for text in known if newest[text.entry.key] is text}
        self._left.difference_update(
            self._clock_at, *(n for text in self._texts.values() for n in text.parts.values())
        )

    def _mend(self) -> None:
        """Delete rows of no use, and fail texts of which some are missing."""
        lacking = [text for text in self._texts.values() if text.lacks]
        if not self._left and not lacking:
            return
        for name in [*self._lost, *(text.entry.id for text in lacking)]:
            _log.error("request %s of the outbox is lost: the disk has damaged it", name)
        with self._transaction():
            for number in self._left:
                self._remove(range(number, number + 1))
            for text in lacking:
                self._end(text, error=_DAMAGED)

    def _convert(self, old: list[format_1.Old]) -> None:
        """Write what a file of an earlier format has in ours."""
        with self._transaction():
            for statement in format_1.TO_FORMAT_2:
                self._run(statement)
            for entry, commits, answer in old:
                text = self._add(entry)
                self._set_status(text, **{name: getattr(entry, name) for name in STATUS_FIELDS})
                if entry.opened is not None:
                    self._set_session(text, entry.opened)
                    if commits:
                        self._put(text, Kind.TOKENS, packed(commits))
                if entry.state == "done":
                    self._put(text, Kind.ANSWER, answer)
            self._put_clock(*self._said)

    # Its clock

    def _recall_clock(self, entries: list[Entry]) -> None:
        """Let the file's time go on: through this boot as that did, and behind another one from its newest time."""
        boot, ahead, seen = self._said
        self._same_boot = boot == self._clock.boot != ""
        if self._same_boot:
            self._ahead = ahead
        elif newest := max([seen, *(entry.finished or 0.0 for entry in entries)]):
            self._ahead = newest - self._clock.up()

    def _follow_clock(self) -> None:
        """Set the times in the file as the machine's clock was set, so that no age jumps.

        Nobody knows for how long the machine was off. Answers are not older for that; unfinished requests are as old as
        the clock says, which may have their users asked once too often.
        """
        jump = self._clock.wall() - self.now()
        if abs(jump) < _STEP:
            jump = 0.0
        known = jump if self._same_boot else 0.0
        with self._transaction(promised=False):
            for text in self._texts.values() if jump else ():
                finished = text.entry.finished
                self._set_status(
                    text,
                    accepted=text.entry.accepted + known,
                    finished=None if finished is None else finished + jump,
                )
            self._put_clock(self._clock.boot, self._ahead + jump, self.now() + jump)
        self._ahead, self._same_boot = self._ahead + jump, True

    def _put_clock(self, *said: Any) -> None:
        before, self._said = self._clock_at, said
        self._clock_at = self._insert(Kind.CLOCK, 0, msgspec.msgpack.encode(said))
        self._remove(before)


def _is_unfinished(text: PersistedText) -> bool:
    return text.entry.unfinished
