"""The demo as a user runs it, with the real model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


def family(pid: int) -> list[int]:
    """The processes below `pid`, however deep."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in found.splitlines())}
    below = [child for child, parent in parents.items() if parent == pid]
    return [*below, *(deeper for child in below for deeper in family(child))]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def demo(*arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flexspec_mq.demo", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_answers_and_leaves_nothing_behind() -> None:
    with demo("--max-tokens=24", "--prompt=Name three rivers.") as process:
        assert process.stdout is not None
        seen: list[int] = []
        lines = []
        for line in process.stdout:
            lines.append(line)
            seen = family(process.pid) or seen
        assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    out = "".join(lines)
    assert "verification exact" in out
    assert "Name three rivers." in out
    assert '{"say"' not in out
    assert "acceptance" in out
    assert len(seen) >= 3
    assert not any(alive(pid) for pid in seen)


def test_a_conversation_survives_a_line_that_is_refused_and_ctrl_c_in_mid_answer_leaves_nothing() -> None:
    with demo("--chat", "--max-tokens=400", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for said in ("word " * 9000, "Write a long story about a river."):
            process.stdin.write(said + "\n")
        process.stdin.flush()
        shown = ""
        while "error: " not in shown or "river" not in shown.lower().partition("hint: ")[2]:
            read = os.read(process.stdout.fileno(), 2**12).decode(errors="replace")
            assert read, shown
            shown += read
        assert "context" in shown
        seen = family(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "tokens per round" not in shown  # it was in mid-answer
    assert len(seen) >= 3
    ends = time.monotonic() + 20
    while any(alive(pid) for pid in seen):
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_target_that_is_not_there_ends_it_with_a_clear_error() -> None:
    with demo("--target=/nowhere/at/all") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "/nowhere/at/all" in err, out
    assert "Traceback" not in err
