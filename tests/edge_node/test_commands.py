"""What the commands read and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from edge_node.cli import commands
from edge_node.cli.parser import build_parser
from edge_node.cli.view import SessionView
from edge_node.completion.options import CompletionOptions
from flexspec_mq.daemon.signals import stoppable
from flexspec_mq.errors import Cancelled, FlexSpecError, UsageError, WorkerError
from flexspec_mq.models.text import Turn, read_prompts
from flexspec_mq.sampling.params import SamplingParams


@dataclass
class FakeView:
    """Answers each turn with its own words, or with an error.

    Attributes:
        asked: contents of the turns of each request.
    """

    events: bool = False
    fails: dict[str, FlexSpecError] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def write(self, turns: Sequence[Turn]) -> AsyncGenerator[dict[str, Any]]:
        said = turns[-1].content
        self.asked.append([turn.content for turn in turns])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield {"type": "start"}
            await asyncio.sleep(0)
            if said in self.fails:
                raise self.fails[said]
            yield {"type": "finish", "text": said.upper()}
        finally:
            self.at_once -= 1

    def emit(self, event: dict[str, Any]) -> None:
        self.shown.append(event)

    def record(self, name: str, event: dict[str, Any]) -> None:
        self.shown.append({**event, "name": name})

    def waiting(self) -> None:
        self.shown.append({"type": "waiting"})

    def help(self, text: str) -> None:
        self.shown.append({"type": "help", "text": text})

    def refused(self, error: FlexSpecError) -> None:
        self.shown.append({"type": "refused", "error": error.message})


async def run(view: FakeView, *arguments: str) -> None:
    await commands.prepare(build_parser().parse_args(arguments))(view)  # type: ignore[arg-type]
    if isinstance(sys.stdin, StandardInput):
        assert os.get_blocking(sys.stdin.fileno())  # as we found it: others share it
        sys.stdin.buffer.close()


class StandardInput:
    """`sys.stdin` over a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.buffer = os.fdopen(descriptor, "rb")

    def fileno(self) -> int:
        return self.buffer.fileno()

    def isatty(self) -> bool:
        return False


def speak(monkeypatch: pytest.MonkeyPatch, words: bytes) -> StandardInput:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(words)
    stdin = StandardInput(read_end)
    monkeypatch.setattr(sys, "stdin", stdin)
    return stdin


async def test_a_chat_goes_on_after_a_turn_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, b"one\n\ntoo long\ncaf\xe9\nnobody\ntwo\n")
    view = FakeView(
        fails={"too long": UsageError("too long"), "nobody": WorkerError("no worker serves base")}
    )
    await run(view, "chat")
    assert view.asked[0] == ["one"]
    assert view.asked[-1] == ["one", "ONE", "two"]
    refused = [event["error"] for event in view.shown if event["type"] == "refused"]
    assert [error.split(":")[0] for error in refused] == [
        "too long",
        "the line is not UTF-8",
        "no worker serves base",
    ]
    assert [event["type"] for event in view.shown].count("waiting") == 7


async def test_a_line_with_a_slash_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, b"/help\n/halp me\n//etc is a folder\n/quit\nnobody hears this\n")
    view = FakeView()
    await run(view, "chat")
    assert view.asked == [["/etc is a folder"]]
    (told,) = (event["text"] for event in view.shown if event["type"] == "help")
    assert {"/help", "/quit", "//…"} <= set(told.split())
    refused = [event["error"] for event in view.shown if event["type"] == "refused"]
    assert refused == ["there is no command /halp"]


async def test_a_chat_of_programs_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, b'{"say": "two\\nlines"}\nplain\n{"say": 3}\n{"say": " "}\n{"say": "/help"}\n')
    view = FakeView(events=True)
    await run(view, "chat", "--events")
    assert view.asked == [["two\nlines"], ["two\nlines", "TWO\nLINES", "/help"]]
    assert [event["type"] for event in view.shown].count("refused") == 2


async def test_a_program_begins_another_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, b'{"say": "one"}\n{"say": "two"}\n{"say": "three", "new": true}\n{"say": "four"}\n')
    view = FakeView(events=True)
    await run(view, "chat", "--events")
    assert view.asked == [["one"], ["one", "ONE", "two"], ["three"], ["three", "THREE", "four"]]


async def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexspec_mq.daemon.streams.MAX_LINE", 100)
    speak(monkeypatch, b"x" * 50_000 + b"\nshort\n" + b"y" * 101)
    view = FakeView()
    await run(view, "chat")
    assert [event.get("error") for event in view.shown].count("a line has more than 100 bytes") == 2
    assert view.asked == [["short"]]


@pytest.mark.parametrize("content", [b"one\ntwo", b""])
async def test_a_chat_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lines").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", StandardInput(os.open(tmp_path / "lines", os.O_RDONLY)))
    view = FakeView()
    await run(view, "chat")
    assert [turns[-1] for turns in view.asked] == content.decode().split()


async def test_a_chat_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for nobody in (None, StandardInput(os.open(os.devnull, os.O_RDONLY))):
        monkeypatch.setattr(sys, "stdin", nobody)
        view = FakeView()
        await run(view, "chat")
        assert not view.asked


async def test_a_batch_goes_on_after_a_text_that_fails(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', '{"turns": ["bad", "more"], "question_id": 81}', "", '{"prompt": "c"}']
    (tmp_path / "batch").write_text("\n".join(lines))
    view = FakeView(fails={"bad": WorkerError("no worker serves base", hint="start one")})
    with pytest.raises(WorkerError, match="1 of 3 texts failed; the first: no worker serves base") as failed:
        await run(view, "batch", str(tmp_path / "batch"), "--at-once", "2")
    assert failed.value.hint == "start one"
    results = {event["name"]: event.get("text", event.get("error")) for event in view.shown}
    assert results == {"1": "A", "81": "no worker serves base", "4": "C"}
    assert view.most_at_once == 2


async def test_lines_of_a_batch_end_where_json_lines_end(tmp_path: Path) -> None:
    text = '\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\n'
    (tmp_path / "batch").write_text(text, encoding="utf-8", newline="")
    assert read_prompts(tmp_path / "batch") == [("1", "a\u2028b"), ("2", "c")]


def test_a_line_that_json_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch").write_text('{"prompt": "a"}\n' + "[" * 200_000)
    with pytest.raises(UsageError, match="line 2 is no JSON object"):
        read_prompts(tmp_path / "batch")


async def test_a_reader_that_went_away_ends_a_batch_as_it_ends_any_command(tmp_path: Path) -> None:
    class Gone(FakeView):
        def record(self, name: str, event: dict[str, Any]) -> None:  # noqa: ARG002
            raise BrokenPipeError

    (tmp_path / "batch").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(BrokenPipeError):
        await run(Gone(), "batch", str(tmp_path / "batch"))


async def test_a_signal_ends_a_command() -> None:
    async def wait_for_ever() -> None:
        async with stoppable():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(Cancelled, match="stopped by the user"):
        await wait_for_ever()


def test_each_text_without_a_seed_draws_its_own() -> None:
    none = SamplingParams()
    assert CompletionOptions(temperature=1.0, limit=1).sampling(7, none).seed == 7
    assert CompletionOptions(temperature=1.0, seed=3, limit=1).sampling(7, none).seed == 3


def test_what_is_not_asked_for_is_what_the_target_recommends() -> None:
    recommended = SamplingParams(temperature=0.7, top_k=20, top_p=0.8)
    assert CompletionOptions().sampling(1, recommended) == SamplingParams(0.7, 20, 0.8, 1)
    asked = CompletionOptions(temperature=1.5, top_p=0.5, seed=9)
    assert asked.sampling(1, recommended) == SamplingParams(1.5, 20, 0.5, 9)
    assert CompletionOptions(top_k=0).sampling(1, recommended).top_k == 0


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"top_p": 0.0}])
def test_options_that_no_text_can_be_written_with(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CompletionOptions(**wrong)


def test_whoever_talks_begins_as_the_targets_makers_recommend_and_whoever_scripts_greedily() -> None:
    for given, expected in (
        (["chat"], (None, None, None)),
        (["chat", "--temperature", "1", "--top-p", "0.5"], (1.0, None, 0.5)),
        (["ask", "x"], (0.0, 0, 1.0)),
        (["batch", "x"], (0.0, 0, 1.0)),
    ):
        args = build_parser().parse_args(given)
        assert (args.temperature, args.top_k, args.top_p) == expected
        assert args.max_tokens == 256


@pytest.mark.parametrize(
    ("reason", "options", "said"),
    [
        ("length", {}, "cut at the limit of 3 tokens; --max-tokens N sets another\n"),
        ("eos", {}, ""),
        ("length", {"ignore_eos": True}, ""),
    ],
)
def test_a_text_that_was_cut_says_so(
    capsys: pytest.CaptureFixture[str], reason: str, options: dict[str, Any], said: str
) -> None:
    view = SessionView(cast("Any", None), CompletionOptions(**options), events=False)
    stats: dict[str, Any] = {"energy_j": None, "limits": []}
    view.emit({"type": "finish", "reason": reason, "tokens": [1, 2, 3], "text": "abc", "stats": stats})
    assert capsys.readouterr().err == said
