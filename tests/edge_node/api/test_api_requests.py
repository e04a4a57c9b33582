"""What a request may say: each field is honoured, neutral, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from edge_node.api.errors import ApiError
from edge_node.api.requests import TextRequest, chat_request, completion_request
from edge_node.api.settings import ApiSettings
from edge_node.api.validation import parse_object
from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**more: Any) -> TextRequest:
    return chat_request({**HELLO, **more})


def refused(parse: Any, body: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        parse(body)
    assert raised.value.status == 400
    return raised.value


def test_the_defaults_are_those_of_openai() -> None:
    request = chat()
    assert (request.temperature, request.top_p, request.seed, request.stops) == (None, None, None, ())
    assert (request.limit, request.stream, request.model) == (None, False, None)
    assert completion_request({"prompt": "x"}).limit == 16


def test_everything_that_is_honoured_arrives() -> None:
    request = chat(
        model="m", temperature=0, top_p=0.5, top_k=7, seed=-1, stop="x", max_completion_tokens=9, stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False}, ignore_eos=True, user="me",
    )  # fmt: skip
    assert request.options(None).seed == 2**64 - 1
    assert (request.model, request.temperature, request.top_p, request.top_k) == ("m", 0.0, 0.5, 7)
    assert (request.stops, request.limit, request.stream, request.include_usage) == (("x",), 9, True, True)
    assert request.ignore_eos
    assert chat(max_tokens=5, max_completion_tokens=5).limit == 5
    assert chat(stop=["a", "b", "c", "d"][:4]).stops == ("a", "b", "c", "d")


def test_messages_become_turns() -> None:
    parts = [{"type": "text", "text": "wo"}, {"type": "text", "text": "rld"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "go on"},
    ]
    assert chat_request({"messages": messages}).prompt == (
        Turn("system", "be brief"),
        Turn("user", "world"),
        Turn("assistant", "yes"),
        Turn("user", "go on"),
    )


@pytest.mark.parametrize(
    ("prompt", "read"), [("ab", "ab"), (["ab"], "ab"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ("", "")]
)
def test_prompts_of_completions(prompt: Any, read: Any) -> None:
    assert completion_request({"prompt": prompt}).prompt == read


@pytest.mark.parametrize(
    "prompt", [None, [], [[]], ["a", "b"], [[1], [2]], [1, "a"], [-1], [True], [1.5], {}, 3]
)
def test_prompts_that_are_none(prompt: Any) -> None:
    assert refused(completion_request, {"prompt": prompt}).param == "prompt"


NEUTRAL = {
    "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "tools": [], "tool_choice": "none",
    "parallel_tool_calls": True, "functions": [], "function_call": "auto", "response_format": {"type": "text"},
    "logprobs": False, "top_logprobs": 0, "modalities": ["text"], "audio": None, "prediction": None,
    "web_search_options": None, "service_tier": "auto", "reasoning_effort": None, "metadata": {"a": "b"},
    "store": True,
}  # fmt: skip


def test_neutral_values_are_fine() -> None:
    assert chat(**NEUTRAL) == chat()
    assert chat(**dict.fromkeys(NEUTRAL)) == chat()
    neutral = {"best_of": 1, "echo": False, "suffix": "", "logprobs": None, "n": 1, "logit_bias": None}
    assert completion_request({"prompt": "x", **neutral}) == completion_request({"prompt": "x"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {"5": 1}), ("frequency_penalty", 0.1), ("presence_penalty", -1), ("n", 2), ("n", 0),
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]),
        ("response_format", {"type": "json_object"}), ("logprobs", True), ("top_logprobs", 2),
        ("modalities", ["text", "audio"]), ("audio", {"voice": "x"}), ("prediction", {"type": "content"}),
        ("reasoning_effort", "high"), ("verbosity", "low"), ("service_tier", "flex"), ("web_search_options", {}),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(field: str, value: Any) -> None:
    error = refused(chat_request, {**HELLO, field: value})
    assert (error.param, error.code) == (field, "unsupported_parameter")
    assert field in error.message


@pytest.mark.parametrize(
    ("field", "value"), [("best_of", 2), ("echo", True), ("suffix", "x"), ("logprobs", 0)]
)
def test_what_completions_do_not_honour(field: str, value: Any) -> None:
    error = refused(completion_request, {"prompt": "x", field: value})
    assert (error.param, error.code) == (field, "unsupported_parameter")


def test_unknown_fields_are_refused_by_name() -> None:
    assert refused(chat_request, {**HELLO, "tempreature": 1}).param == "tempreature"
    assert refused(chat_request, {**HELLO, "best_of": 1}).code == "unknown_parameter"
    message = {"role": "user", "content": "x", "colour": "red"}
    assert refused(chat_request, {"messages": [message]}).param == "messages[0].colour"
    options = {"stream": True, "stream_options": {"what": 1}}
    assert refused(chat_request, {**HELLO, **options}).param == "stream_options.what"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.5), ("temperature", "1"), ("temperature", True), ("top_p", 0),
        ("top_p", 1.1), ("seed", 2**64), ("seed", 1.5), ("seed", "1"), ("max_tokens", 0), ("max_tokens", True),
        ("stop", ["a"] * 5), ("stop", [1]), ("stop", 5), ("stop", "x" * 1025), ("stream", 1), ("model", 5),
        ("stream_options", {"include_usage": True}), ("stream_options", []), ("top_k", -1), ("messages", []),
        ("messages", None), ("messages", "hello"), ("ignore_eos", "yes"),
    ],
)  # fmt: skip
def test_values_out_of_bounds(field: str, value: Any) -> None:
    assert refused(chat_request, {**HELLO, field: value}).param == field


def test_two_limits_that_differ() -> None:
    assert refused(chat_request, {**HELLO, "max_tokens": 1, "max_completion_tokens": 2}).param is not None


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": "x", "name": "bob"}, "messages[0].name"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ("hello", "messages[0]"),
    ],
)
def test_messages_that_are_none(message: Any, param: str) -> None:
    assert refused(chat_request, {"messages": [message]}).param == param


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"x"', b"\xff{}", b'{"temperature": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}", b'{"a": Infinity}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    assert refused(parse_object, body).code == "invalid_json"  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "edge.example"])  # noqa: S104  what is refused
def test_beyond_loopback_only_in_as_many_words(host: str) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        ApiSettings(host=host)
    assert not ApiSettings(host=host, insecure_anywhere=True).loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert ApiSettings(host=host).loopback


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"timeout": float("nan")}, {"max_texts": 0}, {"api_key": " "}]
)
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ApiSettings(**wrong)


def test_the_key_is_never_shown() -> None:
    assert "hush" not in repr(ApiSettings(api_key="hush"))
