"""Terminal output: answers coloured by their writers, progress bars, and text that cannot steer the terminal."""

import io
import logging
import os
import pty
import re
import sys
import unicodedata
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flexspec_mq.chat.answer import AnswerView
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.daemon.main import print_error
from flexspec_mq.daemon.printable import printable
from flexspec_mq.daemon.progress import answer, bars, split, stages
from flexspec_mq.doctor.checks import Finding, State
from flexspec_mq.doctor.command import print_findings
from flexspec_mq.errors import FlexSpecError
from schemas.openai import Writer

WRITERS: tuple[Writer | None, ...] = ("device", "worker", "target", "cloud", None)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(pieces: list[tuple[str, Writer | None]], *, width: int = 40, color: bool = True) -> str:
    """All that a terminal is sent, with nothing that stays only for a moment."""
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=width, height=10, highlight=False, color_system="standard",
        legacy_windows=False, no_color=not color,
    )  # fmt: skip
    with AnswerView(console) as answer:
        for piece in pieces:
            answer.text([piece])
    return out.getvalue()


def left(sent: str, width: int) -> list[str]:
    """The rows that a terminal shows in the end, without styles."""
    rows, row, column = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", sent):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part == "\x1b[2K":
            rows[row] = ""
        elif rows_up := re.fullmatch(r"\x1b\[(\d*)A", part):
            row -= int(rows_up[1] or 1)
        elif part and not part.startswith("\x1b"):
            rows[row] = rows[row][:column].ljust(column) + part
            column += len(part)
            assert len(rows[row].rstrip()) <= width
    return rows


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(
        unicodedata.category(character) not in {"Cc", "Cs"} or character in "\n\t" for character in shown
    )
    assert all(
        a == b for a, b in zip(shown, text, strict=True) if unicodedata.category(b) not in {"Cc", "Cs"}
    )


ATTACKS = (
    "\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\x1b]52;c;ZXZpbA==\x1b\\", "a\rb", "\x08\x08\x08", "\x1bc",
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_cannot_steer_the_terminal(attack: str) -> None:
    for writer in WRITERS:
        sent = drawn([(character, writer) for character in attack] + [(attack, writer)])
        ours = ESCAPES.sub("", sent)
        assert "\x1b" not in ours
        assert not set(ours) & set("\x07\x08\x9b\x9c\x9d")
        assert printable(attack).strip("\n") in "".join(left(sent, 40))


@pytest.mark.parametrize("attack", ATTACKS)
def test_words_of_other_machines_cannot_steer_it_either(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_error(FlexSpecError(attack, hint=attack))
    answer(attack)
    print_findings([Finding("name", State.FAILED, attack, attack)], 1.0, as_json=False)
    print_findings([Finding("name", State.SKIPPED, attack)], 1.0, as_json=False)
    logs.configure(LogOptions(log_format="human"))
    logging.getLogger("words").error("%s said so", attack)
    logs.reset()
    said = "".join(capsys.readouterr())
    assert said.count(printable(attack)) == 7
    assert not any(unicodedata.category(character) == "Cc" for character in said.replace("\n", ""))


@given(
    st.lists(st.tuples(st.text("ab \n", max_size=9), st.sampled_from(WRITERS)), max_size=30),
    st.integers(min_value=5, max_value=30),
)
def test_what_is_left_on_the_screen_is_the_text(pieces: list[tuple[str, Writer | None]], width: int) -> None:
    """However it came: nothing is lost, doubled or joined; rows break where a terminal breaks them."""
    text = "".join(piece for piece, _ in pieces)
    rows = left(drawn(pieces, width=width), width)
    assert re.sub(r"\s", "", "".join(rows)) == re.sub(r"\s", "", text)
    if all(len(line) <= width for line in text.split("\n")):
        assert [row.rstrip() for row in rows][: text.count("\n") + 1] == [
            line.rstrip() for line in text.split("\n")
        ]


def test_a_paragraph_longer_than_the_screen_scrolls() -> None:
    words = [f"word{number} " for number in range(200)]
    rows = left(drawn([(word, "device") for word in words], width=30), 30)
    assert " ".join(" ".join(rows).split()) == "".join(words).strip()


def test_colours_and_what_is_left_without_them() -> None:
    pieces: list[tuple[str, Writer | None]] = [
        ("green", "device"),
        ("cyan", "worker"),
        ("yellow", "target"),
        ("plain", None),
    ]
    assert "\x1b[32mgreen" in drawn(pieces)
    assert "\x1b[3;36mcyan" in drawn(pieces)
    assert "\x1b[1;33myellow" in drawn(pieces)
    grey = drawn(pieces, color=False)
    assert "\x1b[1myellow" in grey  # still bold, so that it can be told
    assert "\x1b[3mcyan" in grey
    assert "\x1b[32m" not in grey


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
    """Output of a program's stages on a terminal, in whose foreground or background it runs."""
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
