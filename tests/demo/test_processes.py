from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from flexspec_mq.demo.processes import Family
from flexspec_mq.errors import FlexSpecError

pytestmark = pytest.mark.alone

ECHO = """
import json, sys
print(json.dumps({"pid": __import__("os").getpid()}), flush=True)
for line in sys.stdin:
    print(json.dumps({"got": json.loads(line)}), flush=True)
"""
STUBBORN = """
import json, os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"pid": os.getpid()}), flush=True)
time.sleep(600)
"""


def ignored(_line: str) -> None:
    pass


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
        return stat.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_child_answers_and_is_ended() -> None:
    with Family() as family:
        child = family.start("echo", [sys.executable, "-c", ECHO], ignored)
        pid = child.wait_for(lambda event: "pid" in event, 20)["pid"]
        child.send({"say": "line\nline"})
        assert child.wait_for(lambda event: "got" in event, 20) == {"got": {"say": "line\nline"}}
    assert gone(pid)


def test_children_end_when_the_body_fails() -> None:
    pids = []

    def half_way() -> None:
        with Family() as family:
            child = family.start("echo", [sys.executable, "-c", ECHO], ignored)
            pids.append(child.wait_for(lambda event: "pid" in event, 20)["pid"])
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half_way()
    assert gone(pids[0])


def test_one_that_does_not_listen_is_killed() -> None:
    with Family() as family:
        child = family.start("mule", [sys.executable, "-c", STUBBORN], ignored)
        pid = child.wait_for(lambda event: "pid" in event, 20)["pid"]
        child.stop(patience=0.1)
        assert gone(pid)


def test_a_child_that_dies_is_an_error_with_its_last_words() -> None:
    told: list[str] = []
    with Family() as family:
        child = family.start("poet", [sys.executable, "-c", "import sys; sys.exit('no rhyme')"], told.append)
        with pytest.raises(FlexSpecError, match="the poet ended with code 1") as caught:
            child.wait_for(lambda _event: True, 20)
    assert "no rhyme" in caught.value.hint
    assert told == ["no rhyme"]


def test_silence_has_a_bound() -> None:
    with Family() as family:
        child = family.start("mule", [sys.executable, "-c", STUBBORN], ignored)
        child.wait_for(lambda event: "pid" in event, 20)
        with pytest.raises(FlexSpecError, match="the mule said nothing for 0 s"):
            child.wait_for(lambda _event: True, 0.05)
        child.stop(patience=0.1)


PARENT = f"""
import signal, sys, time
from flexspec_mq.demo.processes import Family
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
with Family() as family:
    child = family.start("echo", [sys.executable, "-c", {ECHO!r}], lambda line: None)
    print(child.wait_for(lambda event: "pid" in event, 20)["pid"], flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_a_parent_that_is_stopped(number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(number)
        parent.wait(20)
    ends = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < ends
        time.sleep(0.01)
