"""The follower's store: records on disk survive whatever ends the program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flexspec_mq.catalogue.follower import Follower, Record
from flexspec_mq.catalogue.refusals import RecordError
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.catalogue.store import Store
from flexspec_mq.errors import UsageError
from tests.catalogue.family import FAMILY, LATER, NOW, ONLINE, ROOT, catalogue, following, sealed


def record(*payloads: bytes) -> Record:
    found = following(*payloads, now=LATER).record
    assert found is not None
    return found


OLD = record(seal(catalogue(), [ONLINE]))
NEW = record(sealed())


def test_a_record_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", FAMILY)
    assert store.load() is None
    for saved in (OLD, NEW):
        store.save(saved)
        assert Store(tmp_path / "new", FAMILY).load() == saved
    assert Follower(FAMILY, ROOT.public, store.load()).catalogue == catalogue(NOW + 1)


def test_families_keep_apart(tmp_path: Path) -> None:
    Store(tmp_path, FAMILY).save(OLD)
    other = Store(tmp_path, "other")
    assert other.load() is None
    Store(tmp_path, FAMILY).path.rename(other.path)
    with pytest.raises(RecordError, match=f"of the family {FAMILY}, not other"):
        other.load()
    with pytest.raises(UsageError):
        Store(tmp_path, "../other")


def test_a_file_that_a_killed_program_left_half_written_is_as_if_it_were_not(tmp_path: Path) -> None:
    """Partial files of several lengths, beside the last record, are ignored, and the next save deletes them."""
    store = Store(tmp_path, FAMILY)
    Store(tmp_path / "whole", FAMILY).save(NEW)
    data = Store(tmp_path / "whole", FAMILY).path.read_bytes()
    store.save(OLD)
    for length in (0, 1, 31, 32, 33, len(data) // 2, len(data) - 1, len(data)):
        part = tmp_path / f".{store.path.name}.{length + 100_000}.part"
        part.write_bytes(data[:length])
        assert store.load() == OLD
        store.save(OLD)
        assert not part.exists()
    store.save(NEW)
    assert store.load() == NEW
    assert {path.name for path in tmp_path.iterdir()} == {store.path.name, f"{FAMILY}.lock", "whole"}


WRITER = """
import sys
from pathlib import Path
import msgspec
from flexspec_mq.catalogue.follower import Record
from flexspec_mq.catalogue.store import Store
store = Store(Path(sys.argv[1]), "smol")
first = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Record)
for epoch in range(first.epoch, first.epoch + 1_000_000):
    store.save(msgspec.structs.replace(first, epoch=epoch))
    print(epoch, flush=True)
"""


def test_kill_takes_nothing_back_that_save_returned_from(tmp_path: Path) -> None:
    """A program that saves as fast as it can is killed, over and over."""
    at = OLD.epoch
    for round_ in range(8):
        first = msgspec.msgpack.encode(msgspec.structs.replace(OLD, epoch=at + 1)).hex()
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), first], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3 + 5 * round_):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
            said = writer.stdout.read().split()
        found = Store(tmp_path, FAMILY).load()
        assert found is not None
        assert found == msgspec.structs.replace(OLD, epoch=found.epoch)
        assert found.epoch >= (int(said[-1]) if said else at + 3 + 5 * round_)
        at = found.epoch


def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path, FAMILY)
    store.save(OLD)
    data = store.path.read_bytes()
    cut = [data[:length] for length in (0, 1, 32, 100, -1)]
    flipped = [
        data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        for place in range(0, len(data), 5)
    ]
    for damaged in (*flipped, data + bytes(100_000), *cut):
        store.path.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"is damaged\n  → remove it to begin anew"):
            store.load()
    with pytest.raises(RecordError, match="is damaged"):
        store.save(NEW)
    store.path.unlink()
    store.save(NEW)
    assert store.load() == NEW


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="--state-dir"):
        Store(tmp_path / "file", FAMILY).save(OLD)
    store = Store(tmp_path, FAMILY)
    store.path.mkdir()
    with pytest.raises(RecordError, match="cannot be read"):
        store.load()


def test_an_older_record_of_another_program_takes_nothing_back(tmp_path: Path) -> None:
    """Two workers of a machine share a folder, and one is slower."""
    store = Store(tmp_path, FAMILY)
    store.save(NEW)
    Store(tmp_path, FAMILY).save(OLD)
    assert store.load() == NEW
