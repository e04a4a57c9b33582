"""Conversations, numbers and figures: what is sent, kept and shown."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flexspec_mq.chat.api import pieces, read, refused
from flexspec_mq.chat.session import ChatSession, figures
from flexspec_mq.chat.settings import NUMBERS, GenerationOptions
from flexspec_mq.chat.view import View
from flexspec_mq.errors import RemoteProtocolError, UsageError, WorkerError
from schemas.openai import ChatCompletionChunk, Error, FlexspecUsage, Usage


def session(**options: Any) -> ChatSession:
    """A conversation that nobody answers."""
    return ChatSession(cast("Any", None), GenerationOptions(**options), View(people=False))


def test_a_request_says_all_that_was_said_and_asked_for() -> None:
    talk = session(model="m", system="short", temperature=0.0, seed=-1)
    talk.exchanges.append(("one", "1"))
    assert talk.body("two") == {
        "model": "m", "temperature": 0.0, "seed": -1,
        "messages": [
            {"role": "system", "content": "short"}, {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"},
        ],
    }  # fmt: skip
    assert session().body("x") == {"messages": [{"role": "user", "content": "x"}]}


def test_questions_are_taken_back() -> None:
    talk = session()
    talk.exchanges.append(("one", "1"))
    talk.unanswered = "two"
    assert len(talk.body("x")["messages"]) == 3  # what failed is not sent
    assert talk.take_back() == "two"
    assert talk.take_back() == "one"
    with pytest.raises(UsageError, match="nothing was asked yet"):
        talk.take_back()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", ("0", "2", "0.7"), ("-1", "2.1", "nan", "hot", "")),
        ("top_p", ("0.1", "1"), ("0", "1.1", "inf")),
        ("max_tokens", ("1", "500"), ("0", "1.5", "-3", str(2**31))),
        ("seed", ("0", "-1", str(2**64 - 1)), ("x", "1.5")),
    ],
)
def test_numbers(name: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    for text in good:
        assert str(NUMBERS[name].read(name, text)) in (text, f"{text}.0")
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


def test_the_line_of_an_answer() -> None:
    extra = FlexspecUsage(
        drafted=50, accepted=20, looked_up=6, rounds=16, worker_accepted=5, bytes_up=12_345, bytes_down=900, seed=7,
        energy_j=12.0, energy_j_per_100=30.0, energy_source="modelled: phone-4g by 4g",
    )  # fmt: skip
    usage = Usage(prompt_tokens=30, completion_tokens=40, total_tokens=70, flexspec=extra)
    assert figures(usage, "length", 4.0, 0.5).split(" · ") == [
        "40 tokens in 4.0 s, 10.0 a second", "first text 0.50 s", "accepted 20 of 50 (40%), 6 by lookup",
        "5 by the worker's draft", "16 rounds", "12.3 kB up, 900 B down",
        "12.0 J, 30.0 J for 100 tokens (modelled: phone-4g by 4g)", "seed 7", "cut at the limit of tokens",
    ]  # fmt: skip
    nothing = Usage(prompt_tokens=1, completion_tokens=0, total_tokens=1)
    assert figures(nothing, "stop", 0.0, None) == (
        "0 tokens in 0.0 s, 0.0 a second · first text – · accepted 0 of 0 · 0 rounds · 0 B up, 0 B down · seed –"
    )
