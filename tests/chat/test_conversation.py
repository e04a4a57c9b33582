"""Conversations, numbers and figures: what is sent, kept, saved and said."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from msgspec import structs

from flexspec_mq.chat.conversation import NUMBERS, Conversation, Exchange, GenerationOptions
from flexspec_mq.chat.session import AnswerFigures, Totals, size
from flexspec_mq.chat.wire import pieces, read, refused
from flexspec_mq.errors import RemoteProtocolError, UsageError, WorkerError
from schemas.openai import ChatCompletionChunk, Error, FlexspecUsage, Usage


def test_a_request_says_all_that_was_said_and_asked_for() -> None:
    talk = Conversation(GenerationOptions(model="m", system="short", temperature=0.0, seed=-1))
    talk.answered("one", "1")
    assert talk.body("two") == {
        "model": "m", "temperature": 0.0, "seed": -1,
        "messages": [
            {"role": "system", "content": "short"}, {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"},
        ],
    }  # fmt: skip
    assert Conversation(GenerationOptions()).body("x") == {"messages": [{"role": "user", "content": "x"}]}


def test_questions_are_taken_back() -> None:
    talk = Conversation(GenerationOptions())
    talk.answered("one", "1")
    talk.unanswered = "two"
    assert len(talk.body("x")["messages"]) == 3  # what failed is not sent
    assert talk.take_back() == "two"
    assert talk.take_back() == "one"
    with pytest.raises(UsageError, match="nothing was asked yet"):
        talk.take_back()


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    talk = Conversation(GenerationOptions(model="m", system="s", temperature=0.5, seed=7))
    talk.answered("one\n", "é \x1b")
    talk.answered("two", "2", whole=False)
    talk.save(path)
    talk.save(path)  # its own file may be written again
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = Conversation(GenerationOptions(max_tokens=9))
    other.load(path)
    assert other.options == talk.options
    assert other.exchanges == [Exchange("one\n", "é \x1b"), Exchange("two", "2", whole=False)]
    assert [one.name for one in tmp_path.iterdir()] == ["talk.json"]


def test_a_file_of_something_else_is_neither_read_nor_written_over(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    for use in (Conversation(GenerationOptions()).save, Conversation(GenerationOptions()).load):
        with pytest.raises(UsageError, match="is no conversation"):
            use(path)
    assert path.read_text() == "years of work"
    with pytest.raises(UsageError, match="cannot be written"):
        Conversation(GenerationOptions()).save(tmp_path / "thesis.txt" / "x.json")
    (tmp_path / f".talk.json.{os.getpid()}.part").symlink_to(path)  # where others may write as well
    with pytest.raises(UsageError, match="cannot be written"):
        Conversation(GenerationOptions()).save(tmp_path / "talk.json")
    assert path.read_text() == "years of work"


@pytest.mark.parametrize(
    "more", [{"flexspec_chat": 2}, {"exchanges": [{"question": 1}]}, {"temperature": 9}, {"seed": 0.5}]
)
def test_a_broken_file_changes_nothing(tmp_path: Path, more: dict[str, object]) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"flexspec_chat": 1, "exchanges": [], **more}))
    talk = Conversation(GenerationOptions(seed=3))
    talk.answered("a", "b")
    with pytest.raises(UsageError):
        talk.load(path)
    assert (talk.options.seed, len(talk.exchanges)) == (3, 1)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", ("0", "2", "0.7"), ("-1", "2.1", "nan", "hot", "")),
        ("top_p", ("0.1", "1"), ("0", "1.1", "inf")),
        ("max_tokens", ("1", "500"), ("0", "1.5", "-3", str(2**31))),
        ("seed", ("0", "-1", str(2**64 - 1)), ("x", "1.0", str(2**64))),
    ],
)
def test_numbers(name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    for text in good:
        assert NUMBERS[name].read(name, text) == NUMBERS[name].kind(text)
    for text in bad:
        with pytest.raises(UsageError, match=name.replace("_", "-")):
            NUMBERS[name].read(name, text)


def test_pieces_that_are_not_the_text_are_not_believed() -> None:
    choice = '{"delta": {"content": "abc"}, "finish_reason": null}'
    head = f'{{"id": "x", "created": 1, "model": "m", "added later": 1, "choices": [{choice}]'
    body = head + ', "flexspec": {"pieces": [["ab", true], ["%s", false]], "writers": ["device", "worker"]}}'
    assert pieces(read(body % "c", ChatCompletionChunk)) == [("ab", "device"), ("c", "worker")]
    assert pieces(read(body % "d", ChatCompletionChunk)) == [("abc", None)]
    assert pieces(read(body.replace(', "worker"', "") % "c", ChatCompletionChunk)) == [("abc", None)]
    assert pieces(read(head + "}", ChatCompletionChunk)) == [("abc", None)]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"choices": 5}', b"\xff", b"[" * 100_000])
def test_what_is_no_event_is_a_readable_error(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="no API of an edge node"):
        read(body, ChatCompletionChunk)


def test_a_refusal_cannot_steer_the_terminal() -> None:
    error = refused(
        Error(message="\x1b[2Jno", code="no_worker"), status=503, retry_after="\x1b[2J", request="\x1b[2J"
    )
    assert "\x1b" not in str(error)
    assert error.exit_code == WorkerError.exit_code
    assert "\x1b" not in str(refused(Error(message="\x1b[2J", code=7)))


TOLD = FlexspecUsage(
    drafted=50,
    accepted=20,
    looked_up=6,
    rounds=16,
    worker_accepted=5,
    bytes_up=12_345,
    bytes_down=900,
    version="base",
    seed=7,
    exactness="exact",
)
USAGE = Usage(prompt_tokens=30, completion_tokens=40, total_tokens=70, flexspec=TOLD)


def test_the_line_of_an_answer() -> None:
    said = AnswerFigures(0.0, 4.0, 0.5, USAGE, "length").line()
    for part in (
        "40 tokens in 4.0 s, 10.0 a second", "first text 0.50 s", "accepted 20 of 50 (40%), 6 by lookup",
        "5 by the worker's draft", "16 rounds", "12.3 kB up, 900 B down", "seed 7", "cut at the limit",
    ):  # fmt: skip
        assert part in said
    assert AnswerFigures(0.0, 1.5, None, None, None).line() == "stopped after 1.5 s · first text –"
    assert " J" not in said


def test_energy_is_told_where_it_is_known() -> None:
    spent = structs.replace(
        TOLD, energy_j=12.0, energy_j_per_100=30.0, energy_source="modelled: phone-4g by 4g"
    )
    took = AnswerFigures(0.0, 4.0, 0.5, structs.replace(USAGE, flexspec=spent), "stop")
    assert "12.0 J, 30.0 J for 100 tokens (modelled: phone-4g by 4g)" in took.line()
    rows = dict(Totals([took, took, AnswerFigures(0.0, 4.0, 0.5, USAGE, "stop")]).rows())
    assert rows["energy"] == "24.0 J (modelled: phone-4g by 4g)"
    assert "energy" not in dict(Totals([AnswerFigures(0.0, 4.0, 0.5, USAGE, "stop")]).rows())


def test_totals() -> None:
    totals = Totals(
        [
            AnswerFigures(0.0, 4.0, 0.5, USAGE, "stop"),
            AnswerFigures(0.0, 6.0, 1.5, USAGE, "stop"),
            AnswerFigures(0.0, 9.0, 2.5, None, None),
        ],
        2,
    )
    rows = dict(totals.rows())
    assert rows["answers"] == "2, and 1 stopped, 2 failed"
    assert rows["tokens"] == "80 written, 8.0 a second; prompts 60"
    assert rows["acceptance"] == "40 of 100 drafted tokens (40%)"
    assert rows["by lookup"] == "12 of the accepted tokens"
    assert rows["rounds"] == "32, 2.50 tokens each"
    assert rows["MQTT payload"] == "24.7 kB up, 1800 B down"
    assert rows["first text after"] == "1.50 s in the middle, 2.50 s at most"
    assert rows["not counted"] == "tokens, bytes and energy of answers that were stopped"
    assert "not counted" not in dict(Totals(totals.took[:2]).rows())
    assert dict(Totals().rows())["acceptance"] == "0 of 0 drafted tokens"
    assert (size(9999), size(10_000)) == ("9999 B", "10.0 kB")
