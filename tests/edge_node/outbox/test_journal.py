"""The outbox's file against a model of it, through restarts; who may open it, and files that are damaged."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_as_test

from edge_node.outbox.clock import Clock
from edge_node.outbox.entries import ORIGINS, STARTS, Entry, Opening, OutboxError, OutboxFull
from edge_node.outbox.journal import Bounds, Journal
from edge_node.outbox.outbox import Outbox
from flexspec_mq import waiting
from flexspec_mq.errors import Cancelled
from flexspec_mq.protocol.effects import Commit
from schemas.messages import Sampling

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  thousands of syncs say nothing of a disk


def entry(number: int, **more: object) -> Entry:
    made = Entry(
        id=f"text{number}", key=f"key{number}", digest=bytes([number]) * 32, path="/v1/completions",
        body=b'{"prompt": "a"}', accepted=100.0,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def clock(now: Callable[[], float], boot: str = "boot") -> Clock:
    """Clocks that nobody sets."""
    return Clock(now, now, boot)


def commit(start: int, count: int) -> Commit:
    numbers = range(start, start + count)
    return Commit(start, tuple(2**32 - 1 - n for n in numbers), tuple(ORIGINS[n % 6] for n in numbers))


@dataclass
class Known:
    """A request as the journal ought to have it."""

    entry: Entry
    tokens: list[tuple[int, object]] = field(default_factory=list)
    answer: bytes | None = None

    @property
    def shown(self) -> Entry:
        """The same as the journal shows it: it is being written if it has tokens."""
        state = "writing" if self.entry.state == "queued" and self.tokens else self.entry.state
        return replace(self.entry, state=state, tokens=len(self.tokens))


class Model(RuleBasedStateMachine):
    """Calls, each on the disk when it returns, and restarts; at any time a copy of the files is a journal too."""

    bounds = Bounds(texts=6, size=400, retention=50.0)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.path = Path(self.folder.name) / "below" / "outbox.sqlite"
        self.now = 1000.0
        self.known: list[Known] = []
        self.bodies = set[bytes]()
        self.count = 0
        self.journal = Journal(self.path, self.bounds, clock(lambda: self.now))

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    def _spare(self) -> list[Known]:
        """Read answers and then failures, the oldest first: answers that nobody has read are not to spare."""
        spare = [each for each in self.known if each.entry.read or each.entry.state == "failed"]
        return sorted(spare, key=lambda each: (not each.entry.read, each.entry.finished or 0.0))

    def _size(self) -> int:
        return sum(len(each.entry.body + (each.answer or b"")) for each in self.known)

    def _drop_old(self) -> None:
        keep = self.now - self.bounds.retention
        self.known = [
            each for each in self.known if each.entry.finished is None or each.entry.finished >= keep
        ]

    def _fits(self, more: int, size: int) -> bool:
        while len(self.known) + more > self.bounds.texts or self._size() + size > self.bounds.size:
            if not (spare := self._spare()):
                return False
            self.known.remove(spare[0])
        return True

    def _one(self, number: int, *states: str) -> Known | None:
        some = [each for each in self.known if each.entry.state in states]
        return some[number % len(some)] if some else None

    @rule(size=st.integers(1, 150))
    def accept(self, size: int) -> None:
        self.count += 1
        made = entry(self.count, body=random.Random(self.count).randbytes(size), accepted=self.now)
        self.bodies.add(made.body)
        before, known = self.journal.entries(), list(self.known)
        self._drop_old()
        if self._fits(1, size):
            self.journal.accept(made)
            self.known.append(Known(made))
        else:
            with pytest.raises(OutboxFull, match="as much as it may"):
                self.journal.accept(made)
            assert self.journal.entries() == before  # a refusal changes nothing
            self.known = known

    @rule(number=st.integers(0, 9))
    def accept_in_the_place_of_a_failure(self, number: int) -> None:
        each = self._one(number, "failed")
        if each is None:
            return
        self.count += 1
        made = entry(self.count, key=each.entry.key, body=b"x", accepted=self.now)
        self.known.remove(each)
        self._drop_old()
        assert self._fits(1, 1)
        self.journal.accept(made)
        self.known.append(Known(made))

    @rule(number=st.integers(0, 9), session=st.integers(1, 3))
    def open(self, number: int, session: int) -> None:
        if (each := self._one(number, "queued")) is not None:
            opened = replace_opened(session)
            self.journal.open(each.entry.id, opened)
            if each.entry.opened != opened:
                each.tokens = []
            each.entry = replace(each.entry, opened=opened)

    @rule(
        numbers=st.sets(st.integers(0, 9), min_size=1),
        parts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    )
    def commit(self, numbers: set[int], parts: list[int]) -> None:
        added = {}
        for each in filter(None, (self._one(number, "queued") for number in sorted(numbers))):
            at, commits = len(each.tokens), []
            if each.entry.id in added:
                continue
            for count in parts:
                commits.append(commit(at, count))
                at += count
            added[each.entry.id] = commits
            if each.entry.opened is not None:  # else nobody could go on behind them
                each.tokens += [pair for one in commits for pair in zip(one.tokens, one.origins, strict=True)]
        self.journal.commit(added | {"forgotten": [commit(0, 1)]})

    @rule(number=st.integers(0, 9), answer=st.binary(max_size=150), failed=st.booleans())
    def finish(self, number: int, answer: bytes, failed: bool) -> None:
        each = self._one(number, "queued")
        if each is None:
            return
        self.now += 1
        error = "it failed" if failed else ""
        self.journal.finish(each.entry.id, answer, error)
        each.tokens, each.answer = [], answer or None
        each.entry = replace(
            each.entry, state="failed" if failed else "done", error=error, finished=self.now, opened=None
        )
        self._fits(0, 0)

    @rule(number=st.integers(0, 9))
    def park(self, number: int) -> None:
        if (each := self._one(number, "queued")) is not None:
            self.journal.park(each.entry.id, "it is old")
            each.entry = replace(each.entry, state="stale", error="it is old")

    @rule(number=st.integers(0, 9))
    def unpark(self, number: int) -> None:
        if (each := self._one(number, "stale")) is not None:
            each.entry = replace(
                each.entry, state="queued", error="", restarts=each.entry.restarts + 1, accepted=self.now
            )
            assert self.journal.unpark(each.entry.id) == each.shown

    @rule(number=st.integers(0, 9))
    def read(self, number: int) -> None:
        if (each := self._one(number, "done")) is not None:
            self.journal.set_read(each.entry.id)
            each.entry = replace(each.entry, read=True)

    @rule(number=st.integers(0, 9))
    def forget(self, number: int) -> None:
        each = self._one(number, "queued", "stale", "done", "failed")
        assert self.journal.forget("another") is False
        if each is not None:
            assert self.journal.forget(each.entry.id)
            self.known.remove(each)

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start_again(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, self.bounds, clock(lambda: self.now))
        self._drop_old()
        for each in self.known:
            if each.entry.unfinished:
                each.entry = replace(each.entry, restarts=each.entry.restarts + 1)
        assert [each.id for each in self.journal.begin()] == [
            each.entry.id for each in self.known if each.entry.unfinished
        ]

    @rule()
    def sweep(self) -> None:
        self._drop_old()
        self.journal.sweep()
        left = self.path.read_bytes() + self.path.with_name("outbox.sqlite-wal").read_bytes()
        gone = self.bodies - {each.entry.body for each in self.known}
        assert not any(body in left for body in gone if len(body) >= 8)  # a short one may be there by chance

    @rule()
    def look(self) -> None:
        assert self.journal.under("nobody's") is None
        for each in self.known:
            finished = each.entry.finished
            old = finished is not None and finished < self.now - self.bounds.retention
            found = self.journal.under(each.entry.key)
            assert found == (None if old else each.shown)

    @invariant()
    def the_file_has_what_the_model_has(self) -> None:
        expected = [each.shown for each in self.known]
        assert self.journal.entries() == expected
        for each in self.known:
            assert self.journal.entry(each.entry.id) == each.shown
            assert self.journal.answer(each.entry.id) == (each.answer or b"")
            commits = self.journal.committed(each.entry.id)
            got = [pair for one in commits for pair in zip(one.tokens, one.origins, strict=True)]
            assert got == each.tokens


def replace_opened(session: int) -> Opening:
    return Opening(session=session, version="base", sampling=Sampling(top_k=1), limit=9, root=5)


OPENED_JSON = msgspec.json.encode(replace_opened(1))


def test_a_session_that_an_older_node_opened_is_read() -> None:
    row = (
        b'{"session":1,"version":"base","temperature":0.0,"top_k":1,"top_p":1.0,"limit":9,"root":5,"engine":"",'
        b'"private":""}'
    )
    assert Opening.read(row) == Opening.read(OPENED_JSON) == replace_opened(1)


def test_the_journal_is_what_its_model_is_through_restarts() -> None:
    run_as_test(Model, settings=settings(max_examples=30, stateful_step_count=30, deadline=None))


def test_what_is_on_the_disk_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox" / "a.sqlite"
    journal = Journal(path)
    secret = os.urandom(200)
    journal.accept(entry(1, body=secret))
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["a.sqlite", "a.sqlite-wal"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert any(secret in file.read_bytes() for file in files)
    assert journal.forget("text1")
    assert not any(secret in file.read_bytes() for file in files)
    journal.close()
    assert secret not in path.read_bytes()


@pytest.mark.parametrize(
    ("size", "gone", "shrinks"), [(2**17, 8, True), (2**17, 3, False), (2**13, 8, False)]
)
def test_the_file_shrinks_where_most_of_a_large_one_goes(
    tmp_path: Path, size: int, gone: int, shrinks: bool
) -> None:
    path, now = tmp_path / "a.sqlite", [0.0]
    journal = Journal(path, Bounds(retention=10.0), clock(lambda: now[0]))
    for number in range(8):
        now[0] += 5.0 * (number == gone)
        journal.accept(entry(number))
        journal.finish(f"text{number}", os.urandom(size))
        assert path.with_name("a.sqlite-wal").stat().st_size < 2**19
    journal.close()
    before = path.stat().st_size
    assert before > 8 * size
    now[0] = 11.0
    journal = Journal(path, Bounds(retention=10.0), clock(lambda: now[0]))
    assert (journal.begin(), len(journal.entries())) == ([], 8 - gone)
    journal.close()
    assert (path.stat().st_size < 0.9 * before) == shrinks


def test_what_is_read_makes_room_then_failures_and_what_is_old_whoever_read_it() -> None:
    now = [0.0]
    journal = Journal(None, Bounds(texts=5, size=100, retention=10.0), clock(lambda: now[0]))
    for number, size in ((1, 20), (2, 20), (3, 20), (4, 20), (5, 1)):
        journal.accept(entry(number, body=b"x" * size))
    for number, error in ((1, ""), (3, "it failed"), (4, ""), (2, "")):
        journal.finish(f"text{number}", b"", error)
        now[0] += 1.0
    for name in ("text2", "text4"):
        journal.set_read(name)
    steps = (6, 1, "12356"), (7, 40, "13567"), (8, 59, "13567"), (8, 38, "15678"), (9, 1, "15678")
    for number, size, left in steps:
        made = entry(number, body=b"x" * size)
        if left[-1] == str(number):
            journal.accept(made)
        else:
            with pytest.raises(OutboxFull, match="as much as it may") as full:
                journal.accept(made)
            assert "outbox drop ID" in full.value.hint
        assert [each.id for each in journal.entries()] == [f"text{name}" for name in left]
    journal.set_read("text1")
    journal.finish("text5", b"an answer")
    assert journal.entries()[0].id == "text5"
    now[0] += 11.0
    assert journal.under("key5") is None
    journal.accept(entry(10, body=b"x"))
    assert journal.entries()[0].id == "text6"


@pytest.mark.asyncio
async def test_tokens_of_a_moment_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "OUTBOX_TOKENS", 600.0)
    outbox = Outbox(Journal(None))
    await outbox.run(outbox.journal.accept, entry(1))
    await outbox.run(outbox.journal.open, "text1", replace_opened(1))
    for start in (0, 5):
        outbox.commit("text1", commit(start, 5))
        await asyncio.sleep(0.01)
    assert await outbox.run(outbox.journal.committed, "text1") == []
    outbox.write()
    assert await outbox.run(outbox.journal.committed, "text1") == [commit(0, 10)]
    await outbox.close()


OPENER = """
import sys
from pathlib import Path
from edge_node.outbox.journal import Journal
Journal(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
"""


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    command = [sys.executable, "-c", OPENER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(OutboxError, match="another program has the outbox") as refused:
            Journal(path)
        assert "--api-port" in refused.value.hint
        other.kill()
        other.wait()
    Journal(path).close()


def test_a_text_does_not_outlive_its_counters() -> None:
    journal = Journal(None)
    journal.accept(entry(1))
    for restarts in range(1, STARTS):
        assert [each.restarts for each in journal.begin()] == [restarts]
    assert journal.begin() == []
    (failed,) = journal.entries()
    assert failed.state == "failed"
    assert "1024 times" in failed.error


def test_an_outbox_in_memory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None)
    journal.accept(entry(1))
    assert [each.id for each in journal.entries()] == ["text1"]
    journal.close()
    assert list(tmp_path.iterdir()) == []
    assert Journal(None).begin() == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutboxError, match="cannot be used") as told:
        Journal(tmp_path / "file" / "a.sqlite")
    assert "--state-dir" in told.value.hint


def test_late_news_of_a_text_that_was_dropped_meanwhile_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.sqlite")
    journal.accept(entry(1))
    journal.forget("text1")
    journal.open("text1", replace_opened(1))
    journal.commit({"text1": [Commit(0, (1,), (None,))]})
    journal.finish("text1", b"{}")
    assert journal.entries() == []
    journal.close()


@pytest.mark.asyncio
async def test_whoever_comes_when_the_outbox_is_closed_is_told_that_the_node_stops() -> None:
    outbox = Outbox(Journal(None))
    await outbox.run(outbox.journal.accept, entry(1))
    await outbox.close()
    outbox.later(outbox.journal.set_read, "text1")
    with pytest.raises(Cancelled, match="stopping"):
        await outbox.run(outbox.journal.forget, "text1")
