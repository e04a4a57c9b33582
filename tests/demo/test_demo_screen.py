"""Display of recordings."""

import io
import re
from typing import Literal

import pytest
from rich.console import Console

from flexspec_mq.demo.recording import Recording
from flexspec_mq.demo.screen import Screen, frame, is_cut, state
from lab.demo.picture import Picture
from schemas.openai import FlexspecUsage, Writer

STREAMED = Recording([(0.0, "one", "target"), (0.1, " two", "target")], seconds=0.1, carried=5_000, tokens=2)
DRAFTED = Recording([(0.0, "one", "device"), (0.05, " two", "worker")], seconds=0.05, carried=3_000, tokens=2)
STREAMED.took, DRAFTED.took = FlexspecUsage(rounds=2), FlexspecUsage(rounds=1)


def screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    colors: Literal["standard"] | None = "standard" if terminal else None
    console = Console(
        file=out, force_terminal=terminal, width=80, height=30, highlight=False, color_system=colors
    )
    return Screen(console), out


def test_a_cut_is_told_while_it_lasts() -> None:
    side = Recording([(9.0, "x", None)], [(3.0, "y")], cut=2.0, back=5.0, seconds=9.0)
    assert [is_cut(side, now) for now in (1.9, 2.0, 4.9, 5.0)] == [False, True, True, False]
    assert state(side, 1.0) == "1.0 s"
    assert state(side, 2.5) == "2.5 s: network cut"
    assert state(side, 3.5) == "3.5 s: network cut, the draft writes on"
    assert state(side, 9.5) == "complete after 9.0 s, cut at 2.0 s"


def test_a_frame_has_what_had_come() -> None:
    shown, out = screen(terminal=False)
    shown.show(frame(shown.console, [STREAMED, DRAFTED], 0.07))
    streamed, drafted = next(line for line in out.getvalue().splitlines() if "one" in line).split("││")
    assert "two" not in streamed
    assert "one two" in drafted


def test_what_the_draft_wrote_alone_stands_marked_behind_what_is_confirmed_until_it_is_replaced() -> None:
    came: list[tuple[float, str, Writer | None]] = [
        (0.0, "one", "target"),
        (6.0, " two", "device"),
        (7.0, ".", "target"),
    ]
    written = [(2.5, " tw"), (4.0, " two three"), (6.0, " three"), (7.0, "")]
    side = Recording(came, written, cut=2.0, back=5.0, seconds=7.0, tokens=3)
    shown, out = screen(terminal=True)
    for now in (1.0, 4.5, 6.5, 7.5):
        shown.show(frame(shown.console, [Recording(), side], now))
    first, offline, back, last = (line for line in out.getvalue().splitlines() if "one" in line)
    assert "tw" not in first
    assert "\x1b[2;3m two three" in offline
    assert "\x1b[32m two" in back
    assert "\x1b[2;3m three" in back
    assert "three" not in last
    assert (side.at_return(), side.right) == (("one", " two three"), 4)
    shown, out = screen(terminal=False)
    shown.figures([side, side], [side, side])
    assert re.search(r"unverified, and right +10, 4 +10, 4", out.getvalue())
    assert re.search(r"first, s after the cut +0\.5 +0\.5", out.getvalue())


async def test_a_terminal_sees_them_side_by_side_coloured_by_who_wrote_what() -> None:
    shown, out = screen(terminal=True)
    await shown.play([STREAMED, DRAFTED])
    for colored in ("\x1b[1;33mone", "\x1b[32mone", "\x1b[3;36m two"):
        assert colored in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_text_cannot_steer_the_terminal(*, terminal: bool) -> None:
    shown, out = screen(terminal=terminal)
    shown.question("[red]x[/red] [/]")
    attack = Recording([(0.0, "\x1b]0;owned\x07", "target")], tokens=1)
    await shown.play([attack, attack])
    assert "\x1b]" not in out.getvalue()
    assert "[red]x[/red] [/]" in out.getvalue()


async def test_a_picture_holds_every_moment_and_the_end() -> None:
    picture = Picture()
    picture.question("Which?")
    long = Recording([(0.0, "one", "target"), (1.0, " two", "target")], seconds=1.0, tokens=2)
    await picture.play([long, DRAFTED])
    picture.figures([long, DRAFTED], [long, DRAFTED])
    drawn = picture.svg()
    groups = dict(re.findall(r'<g id="(from\d+to\d+)">(.*?)</g>', drawn))
    assert "one" in drawn[: drawn.index('<g id="from')], "it is there all the time"
    assert "two" in groups["from3to3"]
    assert "lost" in groups["from3to3"], "figures come at the end"
    assert "0.4" in groups["from1to1"]
