"""The demo as a user runs it, with the real model."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flexspec_mq.demo.children import as_child
from flexspec_mq.demo.main import PROMPT, main

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


ROOT = Path(__file__).parents[2]
DEMO = sys.executable, "-m", "flexspec_mq.cli", "demo", "--pair=default"
MAKE = "make", "-o", "setup", "demo"


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


def demo(*arguments: str, command: tuple[str, ...] = DEMO) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "FLEXSPEC_PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_child(signal.SIGKILL),  # noqa: PLW1509  two system calls
    )


def test_both_sides_come_through_a_cut_and_nothing_is_left_behind() -> None:
    with demo("--max-tokens=24", "--prompt=Name three rivers.", "--outage=4") as process:
        assert process.stdout is not None
        seen: set[int] = set()
        lines = []
        for line in process.stdout:
            lines.append(line)
            seen.update(family(process.pid))  # at the last line some may have ended
        assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    out = "".join(lines)
    assert out.startswith("pair     default: shows how it works, not what it is worth")
    assert "verification exact" in out
    assert re.search(r"^drafted on the device +0% +\d+% *$", out, re.MULTILINE)
    assert "network  4g: 21 ms a round trip, 7.6 Mbit/s up" in out
    assert out.count("Name three rivers.") == 1
    texts = re.findall(r"(?:without|with) drafts, complete after (.+) s, cut at (.+) s:\n(.+)", out)
    assert len(texts) == 2
    assert texts[0][2] == texts[1][2]
    assert all(float(seconds) >= float(cut) + 4 for seconds, cut, _ in texts)
    assert re.search(r"^tokens lost of 24 +0 +0 *$", out, re.MULTILINE)
    written = re.search(r"^readable as it came back +(\d+) +(\d+) *$", out, re.MULTILINE)
    assert written is not None
    assert int(written[1]) < int(written[2])
    alone = re.search(r"^unverified when the network came back: (.+)", out, re.MULTILINE)
    assert alone is not None
    assert re.search(r"^  first, s after the cut +(\d+\.\d) *$", out, re.MULTILINE)
    assert re.search(r"^Undisturbed.*: with drafts \d\.\d\d times as long", out, re.MULTILINE)
    assert len(seen) >= 4
    assert not any(alive(pid) for pid in seen)


def test_a_conversation_goes_on_after_a_line_that_is_refused() -> None:
    said = "\n".join(["/help", "word " * 9000, "Name a river."])
    done = subprocess.run(
        [*DEMO, "--chat", "--link=wifi", "--max-tokens=8"],
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


def test_sigint_to_make_alone_while_it_records_leaves_nothing_behind() -> None:
    """Over loopback, which says why nothing is to be won."""
    with demo("PAIR=default", "LINK=loopback", "OUTAGE=600", command=MAKE) as process:
        assert process.stdout is not None
        shown = ""
        while PROMPT not in shown:
            read = os.read(process.stdout.fileno(), 2**12).decode(errors="replace")
            assert read, shown
            shown += read
        assert "no round trip can be saved" in shown
        seen = family(process.pid)
        time.sleep(1.0)  # the answer has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert len(seen) >= 4
    ends = time.monotonic() + 60
    while any(alive(pid) for pid in seen):
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_target_that_is_not_there_ends_it_with_a_clear_error() -> None:
    with demo("--target=/nowhere/at/all", command=DEMO[:-1]) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "/nowhere/at/all" in err, out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt= "], "is empty"),
        (["--outage=0"], "more than 0"),
        (["--pair=none-of-them"], "there is no pair"),
        (["--pair=qwen3-8b"], "flexspec pairs try qwen3-8b"),
        (["--pair=default", "--draft=none"], "leave one out"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_starts(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert words in capsys.readouterr().err
