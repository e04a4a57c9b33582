"""Damaged files of the outbox cost the texts whose rows were hit, and are told of; files of the format before."""

import random
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edge_node.outbox.entries import ORIGINS, Entry
from edge_node.outbox.journal import Journal
from lab.sim.disk import memory_folder, recorded
from tests.edge_node.outbox.test_journal import clock, commit, entry, replace_opened

Texts = dict[str, tuple[Entry, tuple[int, ...], bytes]]
Files = dict[str, bytes]
CLOCK = clock(lambda: 1000.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


def texts_in(folder: Path) -> Texts:
    with closing(Journal(folder / "outbox", clock=CLOCK)) as journal:
        return texts_of(journal)


def texts_of(journal: Journal) -> Texts:
    found: Texts = {}
    for each in journal.entries():
        tokens = tuple(token for one in journal.committed(each.id) for token in one.tokens)
        found[each.id] = each, tokens, journal.answer(each.id)
    return found


def written(folder: Path) -> tuple[Texts, dict[str, Files]]:
    """An outbox with 20 pending and 20 finished texts, and its files: of a node that was killed, and that has ended."""
    rng, path = random.Random(5), folder / "outbox"
    journal = Journal(path, clock=CLOCK)
    for number in range(40):
        made = entry(number, accepted=1000.0 + number, body=rng.randbytes(rng.randint(100, 1000)))
        journal.accept(made)
        if number % 4:
            journal.open(made.id, replace_opened(number))
            journal.commit({made.id: [commit(0, 3)]})
            journal.commit({made.id: [commit(3, 40)]}, promised=False)
        if number % 2:
            journal.finish(made.id, rng.randbytes(700))
    killed = {file.name: file.read_bytes() for file in folder.iterdir()}
    texts = texts_of(journal)
    journal.close()
    return texts, {"killed": killed, "ended": {"outbox": path.read_bytes()}}


def put(files: Files, folder: Path) -> None:
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def harmed(before: Texts, after: Texts) -> set[str]:
    """Texts that are not as they were; an unfinished one may have fewer tokens, which come anew."""
    names = set()
    for name, (known, tokens, answer) in before.items():
        found, had, said = after.get(name, (None, (), b""))
        same = found and replace(known, tokens=len(had), state=found.state, opened=found.opened)
        if found is None or found != same or had != tokens[: len(had)] or said != answer:
            names.add(name)
    assert set(after) <= set(before)
    return names


@pytest.mark.parametrize(("left", "file"), [("ended", "outbox"), ("killed", "outbox-wal")])
def test_a_flipped_bit_costs_one_text_at_most_and_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, left: str, file: str
) -> None:
    before, files = written(folder)
    told, lost = 0, 0
    for seed in (
        *range(40),
        79,
        91,
    ):  # in a file that has ended a row becomes a number, and first tokens are lost
        rng, content = random.Random(seed), bytearray(files[left][file])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        put(files[left] | {file: bytes(content)}, folder)
        caplog.clear()
        after = texts_in(folder)
        names = harmed(before, after)
        assert len(names) <= 1
        if after != before:
            assert "is damaged" in caplog.text
        for name in names:
            assert f"request {name} of the outbox is lost" in caplog.text
            assert name not in after or after[name][0].state == "failed"
        told += "is damaged" in caplog.text
        lost += len(names)
        caplog.clear()
        assert texts_in(folder) == after  # mended for good
        assert not caplog.text
    assert told > 20
    assert lost


def test_the_last_promise_is_missed_where_a_bit_of_its_log_flips(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite drops what is behind a damaged frame as if it had never been written."""
    before, files = written(folder)
    log = bytearray(files["killed"]["outbox-wal"])
    log[-100] ^= 1
    put(files["killed"] | {"outbox-wal": bytes(log)}, folder)
    assert len(harmed(before, texts_in(folder))) <= 1
    assert "its log ends before row" in caplog.text


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "not a database": lambda whole: random.Random(1).randbytes(len(whole)),
    "a page of it": lambda whole: whole[:2048] + bytes(512) + whole[2560:],
    "its first page": lambda whole: bytes(512) + whole[512:],
    "cut": lambda whole: whole[: len(whole) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_left_of_a_damaged_file_is_kept_and_every_damaged_file_put_aside(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    before, files = written(folder)
    damaged = DAMAGES[damage](files["ended"]["outbox"])
    for number in (1, 2):
        (folder / "outbox").write_bytes(damaged)
        after = texts_in(folder)
        assert "is damaged" in caplog.text
        assert (folder / f"outbox.damaged.{number}").stat().st_size == len(damaged)
    lost = len(harmed(before, after))
    assert lost in {"not a database": [40], "cut": range(10, 30), "its first page": [0]}.get(
        damage, [0, 1, 2]
    )
    with closing(Journal(folder / "outbox", clock=CLOCK)) as journal:
        journal.accept(entry(41))
    assert "text41" in texts_in(folder)


def test_a_node_that_is_killed_while_it_makes_its_file_anew_has_all_that_is_left(folder: Path) -> None:
    before, files = written(folder)
    damaged = files["ended"]["outbox"]
    put({"outbox": bytes(512) + damaged[512:]}, folder)
    texts_in(folder)
    new, aside = (folder / "outbox").read_bytes(), (folder / "outbox.damaged.1").read_bytes()
    put({"outbox": aside, "outbox.new": new}, folder)
    assert not harmed(before, texts_in(folder))
    assert (folder / "outbox.damaged.1").read_bytes() == aside
    put({"outbox.damaged.1": aside, "outbox.new": new}, folder)
    assert not harmed(before, texts_in(folder))
    put({"outbox": aside, "outbox.part": new[:1000]}, folder)
    assert not harmed(before, texts_in(folder))


# As 0.2.0's programs made it before.
FORMAT_1 = """
PRAGMA auto_vacuum = FULL;
PRAGMA journal_mode = WAL;
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
PRAGMA user_version = 1;
"""
_CLOCK = (
    "CREATE TABLE clock(one INTEGER PRIMARY KEY, boot TEXT NOT NULL, ahead REAL NOT NULL, seen REAL NOT NULL)"
)


def write_format_1(path: Path, *, clock: bool) -> Texts:
    """A file with 20 pending and 20 finished texts, and what it says."""
    texts: Texts = {}
    names = ("id", "key", "digest", "path", "client", "choice", "mode", "accepted", "state", "restarts",
             "finished")  # fmt: skip
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(FORMAT_1)
        if clock:
            file.execute(_CLOCK)
            file.execute("INSERT INTO clock VALUES(1, 'boot', 0.0, 1000.0)")
        for number in range(40):
            finished, tokens = bool(number % 2), number % 4 == 2
            known = entry(
                number, client=b"c", choice=number % 3, mode="deliver", accepted=900.0 + number, restarts=number,
                body=b"x" * number * 100, state="writing" if tokens else ("done" if finished else "queued"),
                finished=1000.0 if finished else None, read=number % 4 == 1,
                opened=replace_opened(number) if tokens else None, tokens=43 if tokens else 0,
            )  # fmt: skip
            answer = b"an answer" * number if finished else b""
            opened = None if known.opened is None else msgspec.json.encode(known.opened)
            row = [getattr(known, name) for name in names] + [
                known.read,
                known.error,
                opened,
                known.body,
                answer,
            ]
            file.execute(f"INSERT INTO requests VALUES(?, {', '.join('?' * len(row))})", [number + 1, *row])
            for one in (commit(0, 3), commit(3, 40), commit(50, 2)) if tokens else ():
                codes = bytes(ORIGINS.index(origin) for origin in one.origins)
                values = number + 1, one.start, array("I", one.tokens).tobytes(), codes
                file.execute("INSERT INTO tokens VALUES(?, ?, ?, ?)", values)
            texts[known.id] = known, commit(0, 43).tokens if tokens else (), answer
    return texts


@pytest.mark.parametrize("clock", [True, False], ids=["with its clock", "without"])
def test_a_file_of_the_format_before_is_converted_and_nothing_lost_or_doubled(
    folder: Path, clock: bool
) -> None:
    path = folder / "outbox"
    before = write_format_1(path, clock=clock)
    assert texts_in(folder) == before
    assert texts_in(folder) == before
    with closing(Journal(path, clock=CLOCK)) as journal:
        assert [each.id for each in journal.begin()] == [f"text{number}" for number in range(0, 40, 2)]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA page_size").fetchone() == (512,)
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("records",)]
    assert [each.name for each in folder.iterdir()] == ["outbox"]
    assert list(texts_in(folder)) == list(before)


def test_a_power_cut_while_a_file_is_converted_loses_nothing(folder: Path) -> None:
    (first := folder / "first").mkdir()
    (second := folder / "second").mkdir()
    before = write_format_1(first / "outbox", clock=False)
    old = (first / "outbox").read_bytes()
    with recorded() as recording, closing(Journal(first / "outbox", clock=CLOCK)) as journal:
        journal.begin()
    rng = random.Random(1)
    for cut in recording.cuts:
        for keeps in (lambda: False, lambda: True, lambda: rng.random() < 0.5):
            put({}, second)
            recording.rebuild(cut, second, keeps, {"outbox": old})
            assert [(each.id, tokens, answer) for each, tokens, answer in texts_in(second).values()] == [
                (each.id, tokens, answer) for each, tokens, answer in before.values()
            ]


def test_a_file_of_a_newer_program_is_left_alone(folder: Path) -> None:
    path = folder / "outbox"
    Journal(path).close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 3")
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"a newer program wrote the outbox .* \(format 3, here 2\)"):
        Journal(path)
    assert path.read_bytes() == before
