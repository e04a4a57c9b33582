"""Bars on terminals, lines elsewhere."""

from __future__ import annotations

import io
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
