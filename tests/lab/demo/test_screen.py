from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lab.demo.screen import Screen, comparison, live_line, summary_rows

STATS: dict[str, Any] = {
    "tokens": 30,
    "seconds": 3.0,
    "first_token": 0.25,
    "tokens_per_second": 12.0,
    "draft_length": 4,
    "drafted": 40,
    "accepted": 20,
    "worker_accepted": 3,
    "rounds": 10,
    "tokens_per_round": 3.0,
    "rtt_ms": 52.25,
    "bytes_up": 300,
    "bytes_down": 330,
    "bytes_per_token": 21.0,
    "polls": 1,
    "reopens": 0,
}


def shown(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=terminal,
        width=80,
        highlight=False,
        color_system="standard",
        legacy_windows=False,
    )
    return Screen(console), out


def test_the_live_line_has_every_figure() -> None:
    line = live_line(STATS)
    for part in (
        "draft length 4",
        "acceptance 50%",
        "3.00 tokens/round",
        "52.2 ms",
        "21 B/token",
        "12.0 tokens/s",
    ):
        assert part in line


def test_figures_that_are_not_known_yet_are_a_dash() -> None:
    line = live_line({**STATS, "drafted": 0, "accepted": 0, "rtt_ms": None})
    assert "acceptance –" in line
    assert "round trip –" in line
    rows = dict(summary_rows({**STATS, "first_token": None, "tokens": 0}, "cancelled"))
    assert rows["first token after"] == "–"
    assert rows["worker's drafts"].startswith("3 tokens")


def test_a_pipe_gets_the_text_alone_and_at_once() -> None:
    screen, out = shown(terminal=False)
    with screen.answer() as answer:
        answer.text([("Once", "device"), (" upon\na", "target")])
        assert out.getvalue() == "Once upon\na"
        answer.note(live_line(STATS))
    assert out.getvalue() == "Once upon\na\n"


def test_a_terminal_tells_accepted_from_written() -> None:
    screen, out = shown(terminal=True)
    with screen.answer() as answer:
        answer.text([("green", "device"), ("yellow", "target")])
    assert "\x1b[32mgreen" in out.getvalue()
    assert "\x1b[1;33myellow" in out.getvalue()


def test_markup_in_a_text_is_text() -> None:
    screen, out = shown(terminal=False)
    screen.question("[red]x[/red] [/]")
    assert "[red]x[/red] [/]" in out.getvalue()


def test_the_summary_says_why_it_ended() -> None:
    screen, out = shown(terminal=False)
    screen.summary({"stats": STATS, "reason": "length"})
    assert "the limit of tokens was reached" in out.getvalue()
    assert "1 polls, 0 re-opens" in out.getvalue()


def test_both_times_are_told_and_why_drafts_lose_on_one_machine() -> None:
    slow, quick = {"seconds": 7.5}, {"seconds": 5.0}
    first, *why = comparison([(slow, quick)], on_link=False)
    assert "with drafts 7.5 s, the same text" in first
    assert "streamed without drafts 5.0 s: 1.50 times as long" in first
    assert "docs/performance.md" in why[-1]
    assert len(comparison([(slow, quick)], on_link=True)) == 1
    assert len(comparison([(quick, slow)], on_link=False)) == 1
    assert "0.67 times as long" in comparison([(quick, slow)], on_link=False)[0]


def test_each_of_several_prompts_has_its_ratio_the_losing_one_too() -> None:
    screen, out = shown(terminal=False)
    lost, won = {**STATS, "seconds": 6.0}, {**STATS, "seconds": 2.0}
    screen.comparison({"a question": (lost, STATS), "a list": (won, STATS)}, on_link=False)
    lines = out.getvalue().splitlines()
    assert [line.split()[-4] for line in lines if line.startswith("a ")] == ["2.00", "0.67"]
    assert any(
        "with drafts 8.0 s, the same texts streamed without drafts 6.0 s: 1.33" in line for line in lines
    )
    assert "docs/performance.md" in lines[-1], "one of them lost"
