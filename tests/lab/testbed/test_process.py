import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flexspec_mq.errors import FlexSpecError
from lab.testbed.process import Processes, output, running, stat_of

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


def state(pid: int) -> str:
    """State of a process, as the kernel's letter for it; empty where there is no such process."""
    return next(iter(stat_of(pid)), "")


def gone(pid: int) -> bool:
    return state(pid) in {"", "Z"}


def code(text: str) -> list[str]:
    return [sys.executable, "-c", text]


async def test_a_child_answers_and_is_ended() -> None:
    async with running("echo", code(ECHO)) as child:
        pid = (await child.event(lambda event: "pid" in event, 20))["pid"]
        assert pid == child.pid
        await child.send({"say": "line\nline"})
        assert await child.event(lambda event: "got" in event, 20) == {"got": {"say": "line\nline"}}
        await child.send(b'"as it is"')
        assert json.loads(await child.line(20)) == {"got": "as it is"}
        assert not gone(pid)
    assert not child.runs
    assert gone(pid)


async def test_one_that_does_not_listen_is_killed() -> None:
    async with running("mule", code(STUBBORN)) as child:
        await child.event(lambda event: "pid" in event, 20)
        assert await child.end(patience=0.1) == -signal.SIGKILL
        assert gone(child.pid)


async def test_the_newest_ends_first(tmp_path: Path) -> None:
    says = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): print(sys.argv[1], file=open(sys.argv[2], 'a')); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('{}', flush=True); time.sleep(600)"
    )
    async with Processes() as processes:
        for name in ("broker", "worker", "edge"):
            child = await processes.start(name, [*code(says), name, str(tmp_path / "ended")])
            await child.line(20)
    assert (tmp_path / "ended").read_text().split() == ["edge", "worker", "broker"]


async def test_a_child_that_dies_is_an_error_with_its_last_words() -> None:
    told: list[str] = []
    async with running("poet", code("import sys; sys.exit('no rhyme')"), say=told.append) as child:
        with pytest.raises(FlexSpecError, match="the poet ended with code 1") as caught:
            await child.event(lambda _event: True, 20)
        with pytest.raises(FlexSpecError, match="the poet ended with code 1"):
            await child.send({"say": "?"})
    assert "no rhyme" in caught.value.hint
    assert told == ["no rhyme"]
    assert child.said == "no rhyme\n"


async def test_it_can_be_ended_while_another_task_waits_for_its_next_line() -> None:
    """As where one of several that are started together fails, and all are ended."""
    async with running("echo", code(ECHO)) as child:
        await child.line(20)
        lines = [asyncio.create_task(child.line(20)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await child.end() == -signal.SIGTERM
        for line in lines:
            with pytest.raises(FlexSpecError, match="the echo ended with code -15"):
                await line


async def test_a_child_hangs_and_goes_on() -> None:
    async with running("echo", code(ECHO)) as child:
        await child.line(20)
        child.pause()
        ends = time.monotonic() + 60
        while state(child.pid) != "T":
            assert time.monotonic() < ends
            await asyncio.sleep(0.01)
        await child.send({"say": "late"})
        with pytest.raises(FlexSpecError, match="said nothing"):
            await child.line(0.1)
        child.resume()
        assert json.loads(await child.line(20)) == {"got": {"say": "late"}}
        await child.kill()
        assert gone(child.pid)


async def test_settings_of_our_daemons_in_the_environment_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEXSPEC_EDGE_BROKER", "nowhere:1")
    shows = "import json, os; print(json.dumps(dict(os.environ)))"
    async with running("edge", code(shows), env={"MORE": "1"}) as child:
        found = await child.event(within=20)
    assert "FLEXSPEC_EDGE_BROKER" not in found
    assert (found["MORE"], found["PATH"]) == ("1", os.environ["PATH"])


def test_ctrl_c_reaches_it_whoever_started_us() -> None:
    """A shell's background job has children that ignore Ctrl-C, unless somebody restores it."""
    asks = "import json, signal; print(json.dumps(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN))"
    parent = (
        "import asyncio, sys\n"
        "from lab.testbed.process import running\n"
        "async def main():\n"
        f"    async with running('child', [sys.executable, '-c', {asks!r}]) as child:\n"
        "        print((await child.line(20)).decode())\n"
        "asyncio.run(main())"
    )
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    for command in (code(asks), code(parent)):
        done = subprocess.run([*ignoring, *command], capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout) is (command == code(parent))


PARENT = f"""
import asyncio, signal, sys
from lab.testbed.process import running
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
async def main():
    async with running("echo", [sys.executable, "-c", {ECHO!r}]) as child:
        print((await child.event(within=20))["pid"], flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
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
    ends = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < ends
        time.sleep(0.01)


async def test_a_program_that_takes_too_long_is_named() -> None:
    with pytest.raises(FlexSpecError, match=r"^pip install did not end within 0\.5 s"):
        await output("pip install", code("import time; time.sleep(600)"), 0.5)
