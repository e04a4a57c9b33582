"""Files that appear whole or not at all; one program at a time in a block, also after one that died there."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flexspec_mq.daemon.files import alone, whole

HOLDER = """
import sys, time
from pathlib import Path
from flexspec_mq.daemon.files import alone
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def _tear(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_a_file_appears_at_the_end_of_the_block_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("one", "two"):
        before = path.read_text() if path.exists() else None
        with whole(path) as part:
            part.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    with pytest.raises(ZeroDivisionError):
        _tear(path)
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_a_durable_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def noted_replace(part: Path, path: Path) -> Path:
        done.append("rename")
        return replace(part, path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with whole(tmp_path / "file", durable=True) as part:
        part.write_text("text")
    assert (tmp_path / "file").read_text() == "text"
    assert done == ["sync .part", "rename", "sync folder"]


def test_a_lock_is_waited_for_and_comes_back_from_one_that_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        waits: list[int | None] = []

        def kill() -> None:
            waits.append(holder.poll())
            holder.kill()

        with alone(lock, kill):
            assert holder.wait(20) < 0
    assert waits == [None]
    with alone(lock, kill):
        pass
    assert waits == [None]


def test_threads_keep_each_other_out(tmp_path: Path) -> None:
    inside, most = 0, []

    def enter() -> None:
        nonlocal inside
        for _ in range(50):
            with alone(tmp_path / ".lock"):
                inside += 1
                most.append(inside)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 200


def test_a_lock_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError), alone(tmp_path / ".lock"):
        raise AssertionError("inside")
