"""One program at a time in a block, and none shut out by one that died there."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flexspec_mq.daemon.locks import alone

HOLDER = """
import sys, time
from pathlib import Path
from flexspec_mq.daemon.locks import alone
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


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
