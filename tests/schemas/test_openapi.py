"""The OpenAPI document says what the types say, and the types of requests say what validation does."""

from __future__ import annotations

from typing import Any

import pytest

from edge_node.api.app import PATHS
from edge_node.api.errors import ApiError
from edge_node.api.requests import chat_request, completion_request
from flexspec_mq.cli import main
from schemas.__main__ import as_text
from schemas.openapi import ENDPOINTS, TYPES, document
from tests.schemas.json_schema import problems, references

DOCUMENT = document()


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--openapi"]) == 0
    assert capsys.readouterr().out == as_text(DOCUMENT)


def test_it_has_the_paths_of_the_app_and_no_type_for_nothing() -> None:
    assert {path.replace("/{model}", "") for path in DOCUMENT["paths"]} == set(PATHS)
    assert {one.path for one in ENDPOINTS} == set(DOCUMENT["paths"])
    used = {reference.rsplit("/", 1)[1] for reference in references(DOCUMENT)}
    streamed = {one.chunk.__name__ for one in ENDPOINTS if one.chunk is not None}
    deeper = {"ChatCompletionChunk", "ChunkChoice", "Delta"}
    assert used | streamed | deeper == {kind.__name__ for kind in TYPES}


def test_each_bound_is_said() -> None:
    schema = DOCUMENT["components"]["schemas"]["ChatCompletionRequest"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["messages"]
    fields = schema["properties"]
    assert fields["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert fields["n"]["enum"] == [None, 1]
    assert fields["model"]["description"].startswith("a target version")


HELLO = {"messages": [{"role": "user", "content": "hello"}]}
BODIES: list[tuple[dict[str, Any], bool]] = [
    (HELLO, True),
    ({**HELLO, "temperature": 2, "stop": ["a"], "n": 1, "logprobs": False, "tools": []}, True),
    ({**HELLO, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": -1}, True),
    ({**HELLO, "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]}}, True),
    ({}, False),
    ({"messages": []}, False),
    ({**HELLO, "temperature": 2.1}, False),
    ({**HELLO, "top_p": 0}, False),
    ({**HELLO, "n": 2}, False),
    ({**HELLO, "logprobs": True}, False),
    ({**HELLO, "stop": ["a"] * 5}, False),
    ({**HELLO, "stop": "x" * 1025}, False),
    ({**HELLO, "seed": 2**64}, False),
    ({**HELLO, "what": 1}, False),
    ({"messages": [{"role": "tool", "content": "x"}]}, False),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, False),
    ({"prompt": "x"}, True),
    ({"prompt": [1, 2], "best_of": 1, "max_tokens": 5}, True),
    ({"prompt": [-1]}, False),
    ({"prompt": "x", "echo": True}, False),
    ({"prompt": "x", "logprobs": 0}, False),
]


@pytest.mark.parametrize(("body", "fine"), BODIES)
def test_the_document_and_validation_agree(body: dict[str, Any], fine: bool) -> None:
    parse, name = (
        (completion_request, "CompletionRequest")
        if "prompt" in body
        else (chat_request, "ChatCompletionRequest")
    )
    found = problems(body, DOCUMENT["components"]["schemas"][name], DOCUMENT)
    assert (not found) == fine, found
    if fine:
        parse(body)
    else:
        with pytest.raises(ApiError):
            parse(body)
