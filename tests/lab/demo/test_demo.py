"""The demo as a user runs it, with the real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from lab.demo.main import PROMPT, main
from lab.demo.recording import CUT_S
from lab.testbed.process import as_child

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


def demo(*arguments: str, module: str = "lab.demo") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_child(signal.SIGKILL),  # noqa: PLW1509  two system calls
    )


def test_both_sides_come_through_a_cut_and_nothing_is_left_behind() -> None:
    with demo("--max-tokens=24", "--prompt=Name three rivers.") as process:
        assert process.stdout is not None
        seen: set[int] = set()
        lines = []
        for line in process.stdout:
            lines.append(line)
            seen.update(family(process.pid))  # at the last line some may have ended
        assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    out = "".join(lines)
    assert "verification exact" in out
    assert "network  4g: " in out
    assert out.count("Name three rivers.") == 1
    texts = re.findall(r"(?:without|with) drafts, complete after (.+) s, cut at (.+) s:\n(.+)", out)
    assert len(texts) == 2
    assert texts[0][2] == texts[1][2]
    assert all(float(seconds) >= float(cut) + CUT_S for seconds, cut, _ in texts)
    assert re.search(r"^tokens lost of 24 +0 +0 *$", out, re.MULTILINE)
    assert re.search(r"^Undisturbed.*: with drafts \d\.\d\d times as long", out, re.MULTILINE)
    assert len(seen) >= 4
    assert not any(alive(pid) for pid in seen)


def test_loopback_is_cut_too_and_says_why_nothing_is_to_be_won() -> None:
    with demo("--link=none", "--max-tokens=8") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "no round trip can be saved" in out
    assert PROMPT in out
    assert out.count(", cut at ") == 2


def test_a_conversation_goes_on_after_a_line_that_is_refused() -> None:
    said = "\n".join(["/help", "word " * 9000, "Name a river."])
    done = subprocess.run(
        [sys.executable, "-m", "lab.demo", "--chat", "--link=wifi", "--max-tokens=8"],
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    help_, refused = done.stdout.index("/temperature [N | none]"), done.stdout.index("error: ")
    assert help_ < refused
    assert "context" in done.stdout[refused:]
    assert done.stdout.index("8 tokens in ") > refused


def test_ctrl_c_while_it_records_leaves_nothing_behind() -> None:
    with demo("--max-tokens=400", "--prompt=Write a long story about a river.") as process:
        assert process.stdout is not None
        shown = ""
        while "long story" not in shown:
            read = os.read(process.stdout.fileno(), 2**12).decode(errors="replace")
            assert read, shown
            shown += read
        seen = family(process.pid)
        time.sleep(1.0)  # the answer has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(seen) >= 4
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


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--link=nonesuch", "there is no link profile 'nonesuch'"),
        ("--link=x", "or 'none' for loopback"),
        ("--prompt= ", "is empty"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    flag: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag]) == 2
    assert why in capsys.readouterr().err


def test_a_version_is_published_while_an_answer_streams() -> None:
    """By the demo of an update, with a head that ships."""
    with demo("--head=format", "--max-tokens=12", module="lab.demo.evolution") as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert re.search(r"the long answer, of \d+ characters, streamed all the while and ended with v1", out)
    assert "All came out the same to the last character." in out
    # The first text, the long one, the later ones, and two of these again; two of the new version as well.
    versions = re.findall(r"^(v[12]) +(\w+) +(\d+) +(\d+)", out, re.MULTILINE)
    assert versions == [("v1", "draining", "7", "0"), ("v2", "stable", "7", "0")]
    assert re.search(r"^  catalogue +2 messages +\d+ B of MQTT$", out, re.MULTILINE)
