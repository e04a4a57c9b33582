"""Another server as a strategy: a real process that is asked over HTTP, and ones that cannot be."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from lab.bench import testbed as other
from lab.bench.figures import Sample
from lab.bench.meter import LinkBytes
from lab.bench.testbed import start_server
from lab.testbed.deployment import local_deployment

WORDS = (sys.executable, str(Path(__file__).with_name("other_server.py")), "{host}", "{port}")


async def answered(
    command: tuple[str, ...], questions: list[str], say: Callable[[str], None] = print
) -> list[tuple[dict[str, Any], LinkBytes]]:
    async with local_deployment() as here:
        client = await here.start("client", "device", python("lab.bench.client"))
        server = await start_server(here, command, client, say)
        return [
            await server.ask({"messages": [{"role": "user", "content": text}], "max_tokens": 9}, None)
            for text in questions
        ]


def test_another_server_is_asked_over_http() -> None:
    # It prints more than a pipe holds: it must not wait for somebody to read that.
    found = asyncio.run(answered(WORDS, ["one two three", "four"]))
    told = [Sample.of_answer(number, "server", *one) for number, one in enumerate(found)]
    assert [one.text for one in told] == ["one two three ", "four "]
    assert [one.tokens for one in told] == [3, 1]
    assert all(one.first is not None and 0 < one.first <= one.seconds for one in told)
    assert all((one.ip_up, one.rounds) == (None, 0) for one in told)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "echo no model here; exit 3"), "ended with code 3"),
        (("true",), "ended with code 0"),
        ((*WORDS, "page"), "lists no model at /v1/models"),
    ],
)
def test_one_that_ends_is_told_with_what_it_said(command: tuple[str, ...], said: str) -> None:
    with pytest.raises(FlexSpecError, match=said) as caught:
        asyncio.run(answered(command, []))
    assert ("no model here" in (caught.value.hint or "")) == (command[0] == "sh")


def test_what_is_waited_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other, "_TOLD_EACH", 0.3)
    said: list[str] = []
    ((found, _),) = asyncio.run(answered((*WORDS, "late"), ["one two"], said.append))
    assert found["text"] == "one two "
    assert len(said) >= 2
    assert all("lists no model yet" in line for line in said)


@pytest.mark.parametrize(
    ("way", "text", "why"),
    [("broken", "one ", ""), ("torn", "one ", ""), ("silent", "one two ", "how many tokens")],
)
def test_a_stream_that_breaks_off_or_is_of_untold_length_is_an_answer_that_failed(
    way: str, text: str, why: str
) -> None:
    ((answer, _),) = asyncio.run(answered((*WORDS, way), ["one two"]))
    assert answer["text"] == text
    assert answer["error"]
    assert why in answer["error"]
