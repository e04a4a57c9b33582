"""Bars on terminals, lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import sys
from contextlib import redirect_stderr

import pytest
from rich.console import Console

from flexspec_mq.daemon.progress import bars, split, stages


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("loading", ("loading", None)),
        ("proving: 40%", ("proving", 40)),
        ("reading weights: 7 %", ("reading weights", 7)),
        ("100 %", ("", 100)),
        ("at 140 %", ("at 140 %", None)),
        ("exact: 0 of 2078 rows, 5 % of them twice", ("exact: 0 of 2078 rows, 5 % of them twice", None)),
    ],
)
def test_a_percentage_at_the_end_fills_the_bar(text: str, parts: tuple[str, int | None]) -> None:
    assert split(text) == parts


def test_a_terminal_sees_a_bar_for_each_task_and_none_at_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with bars("worker", "edge", console=console) as tell:
        tell("proving: 40 %", "worker")
        tell("loading [draft]", "edge")
    shown = out.getvalue()
    assert "worker: proving" in shown
    assert "edge: loading [draft]" in shown
    assert "40 %" not in shown  # it is the bar's length
    assert shown.rstrip().endswith("\x1b[2K")  # the last thing done is to erase the bars


def test_elsewhere_stages_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with stages() as tell:
        tell("loading")
        tell("proving: 40 %")
    assert capsys.readouterr().err == "loading\nproving: 40 %\n"


def test_stages_are_seen_although_a_library_is_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    with stages() as tell, redirect_stderr(io.StringIO()):
        tell("unpacking: 40 %")
    assert capsys.readouterr().err == "unpacking: 40 %\n"


def test_elsewhere_bars_are_nothing() -> None:
    out = io.StringIO()
    with bars("worker", console=Console(file=out)) as tell:
        tell("loading", "worker")
    assert out.getvalue() == ""


_ON_A_TERMINAL = """
import os, subprocess, sys
group = (lambda: os.setpgid(0, 0)) if sys.argv[1] == "background" else None
code = "from flexspec_mq.daemon.progress import stages\\nwith stages() as tell: tell('loading'); tell('proving')"
sys.exit(subprocess.run([sys.executable, "-c", code], preexec_fn=group).returncode)
"""


def on_a_terminal(where: str) -> str:
    """What a program's stages look like on a terminal, in whose foreground or background it runs."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", _ON_A_TERMINAL, where])  # noqa: S606  no shell is wanted
    shown = b""
    try:
        while part := os.read(terminal, 65_536):
            shown += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    return shown.decode()


def test_a_program_in_the_background_of_a_terminal_writes_lines() -> None:
    assert on_a_terminal("background") == "loading\r\nproving\r\n"
    assert "\x1b[" in on_a_terminal("foreground")
