"""The recorder of power cuts finds what SQLite promises, and what it does not."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lab.sim.disk import Recording, everything, memory_folder, nothing_more, recorded, some

ROWS = 40


def _history(file: Path, synchronous: str) -> Recording:
    """Rows added one by one in a database with a small log, each told of once it is said to be there."""
    with recorded() as recording, closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"PRAGMA synchronous={synchronous}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=8")
        database.execute("CREATE TABLE rows (number INTEGER, padding BLOB)")
        for number in range(ROWS):
            database.execute("INSERT INTO rows VALUES (?, randomblob(1500))", (number,))
            recording.mark(number)
    return recording


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


def _after(recording: Recording, cut: int, folder: Path, *chances: random.Random) -> list[list[int]]:
    found = []
    for keeps in (nothing_more, everything, *map(some, chances)):
        for old in folder.iterdir():
            old.unlink()
        recording.rebuild(cut, folder, keeps)
        with closing(sqlite3.connect(folder / "file")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            try:
                rows = database.execute("SELECT number FROM rows ORDER BY number").fetchall()
            except sqlite3.OperationalError:  # the table was not there yet
                rows = []
            found.append([number for (number,) in rows])
    return found


def test_a_log_that_is_synced_loses_nothing_that_was_committed(tmp_path: Path, folder: Path) -> None:
    recording = _history(tmp_path / "file", "EXTRA")
    chances = [random.Random(seed) for seed in range(3)]
    assert len(recording.cuts) > ROWS
    for cut in recording.cuts:
        said = recording.said(cut)
        for rows in _after(recording, cut, folder, *chances):
            assert rows == list(range(len(rows)))
            assert len(said) <= len(rows) <= len(said) + 1


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_what_sqlite_does_not_sync_is_seen_to_be_lost(tmp_path: Path, folder: Path, synchronous: str) -> None:
    """NORMAL syncs no commit; FULL not the folder, from which the rollback journal went when the log was begun."""
    recording = _history(tmp_path / "file", synchronous)
    rng = random.Random(0)
    lost = [
        len(recording.said(cut)) - min(map(len, _after(recording, cut, folder, rng)))
        for cut in recording.cuts
    ]
    assert max(lost) > 1


def test_all_that_was_written_is_what_is_there(tmp_path: Path, folder: Path) -> None:
    recording = _history(tmp_path / "file", "FULL")
    recording.rebuild(len(recording.steps), folder, everything)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()
    }


def test_connections_after_the_block_are_not_recorded(tmp_path: Path) -> None:
    with recorded() as recording:
        pass
    with closing(sqlite3.connect(tmp_path / "file")) as database:
        database.execute("CREATE TABLE rows (number INTEGER)")
    assert recording.steps == []
